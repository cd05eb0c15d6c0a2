use std::num::NonZero;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};

/// Sets the number of threads that compute, by default all cores, makes them one pool, and returns their number. Has freed
/// memory kept between steps. Call it once, first thing in `main`.
///
/// The operations run on rayon's global pool. Candle's own elementwise operations would use a second pool, whose threads spin
/// while they wait; two pools on the same cores slow each other down several times over, so that pool gets one thread.
///
/// # Errors
/// If something has been computed before.
pub fn use_threads(threads: Option<usize>) -> Result<NonZero<usize>> {
    let threads = match threads {
        Some(threads) => threads.try_into()?,
        None => available_parallelism()?,
    };
    disable_candles_pool();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .context("cannot set the number of threads after something was computed")?;
    train_ops::keep_freed_memory();
    Ok(threads)
}

/// Gives candle's own pool one thread, as the environment variable would that candle reads when it first computes.
///
/// Only while this process has one thread: another could read the environment at the same time, from C code that does not lock
/// it. With more threads, and where their number is not known, candle keeps its pool; that costs speed alone.
fn disable_candles_pool() {
    if is_single_threaded() {
        // SAFETY: no other thread exists that could access the environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
    }
}

/// Whether this process is known to have one thread.
fn is_single_threaded() -> bool {
    let threads = || std::fs::read_dir("/proc/self/task").ok().map(Iterator::count);
    cfg!(target_os = "linux") && threads() == Some(1)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_left_alone_while_other_threads_run() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert!(!is_single_threaded());
        drop(stop);
        let _ = other.join();
    }
}
