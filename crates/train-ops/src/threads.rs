use std::num::NonZero;

use crate::{Error, Result};

/// Sets how many threads compute, and makes them one pool: call it once, first thing in `main`.
///
/// The operations of this crate run on rayon's global pool. Candle's own elementwise operations wait for one another in
/// a second pool that spins, and two pools on the same cores slow each other down several times over: here that second
/// pool is left out.
///
/// # Errors
/// If rayon's global pool exists already.
pub fn use_threads(threads: NonZero<usize>) -> Result<()> {
    // SAFETY: the variable is read and written through Rust's standard library alone, which locks the environment. The
    // documentation asks for a call before other threads begin, for the sake of C code that reads it without the lock.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("CANDLE_NUM_THREADS", "1");
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .map_err(|source| Error::Threads { source: Box::new(source) })
}

/// Runs `f` on one of the threads that compute. Many short operations after one another, as in decoding, are then shared
/// with threads that are awake, instead of waking one from outside for each.
pub fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
