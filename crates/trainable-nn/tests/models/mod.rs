//! Models written as those of candle-transformers are, with `trainable_nn` for `candle_nn`.

pub mod bert;
pub mod qwen2;
