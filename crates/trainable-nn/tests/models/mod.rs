//! Models written as those of candle-transformers are, with `trainable_nn` for `candle_nn`.

pub(crate) mod bert;
pub(crate) mod qwen2;
