//! Caches of keys and values. Where something is trained they keep its gradients, which candle-nn's cut off: clear a cache
//! before each forward pass that trains, as models do with `clear_kv_cache`.

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
