//! Caches of keys and values. Unlike candle-nn's, they keep the gradients of trained tensors. So clear a cache
//! before each forward pass that trains, with the model's `clear_kv_cache`.

mod concat;
mod growing;
mod rotating;

pub use candle_nn::kv_cache::{
    IndicesAndMask, InterleavedKvCache, RawInterleavedKvCache, ScatteredCacheBuilder, ScatteredKvCache,
    rope_i_inplace,
};
pub use concat::ConcatKvCache;
pub use growing::{Cache, KvCache};
pub use rotating::{RotatingCache, RotatingKvCache};
