use std::num::NonZero;
use std::thread::available_parallelism;

use anyhow::Result;

/// Sets the number of threads, by default all cores, and returns it; has memory kept between steps. Call it once, first thing in `main`.
///
/// # Errors
/// If something has been computed before.
pub fn use_threads(threads: Option<usize>) -> Result<NonZero<usize>> {
    let threads = match threads {
        Some(threads) => threads.try_into()?,
        None => available_parallelism()?,
    };
    train_ops::use_threads(threads)?;
    train_ops::keep_freed_memory();
    Ok(threads)
}
