//! The number of threads of a process.

use std::env;
use std::num::NonZero;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, anyhow};

/// The environment variable for the number of threads of programs with rayon.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads and returns it: `threads`, else the variable `RAYON_NUM_THREADS`, else all cores.
/// Also makes the allocator keep memory between steps. Call it once, at the beginning of `main`.
///
/// The operations run on rayon's global pool. Candle's own elementwise operations would use a second pool whose
/// threads spin while they wait. Two pools on the same cores make each other several times slower, so candle's
/// pool gets one thread.
///
/// # Errors
/// If something was computed before this call, or the variable is not a number.
pub fn use_threads(threads: Option<usize>) -> Result<NonZero<usize>> {
    use_part_of_threads(threads, 1)
}

/// As [`use_threads`], where `sharing` processes divide all cores among them.
pub(crate) fn use_part_of_threads(threads: Option<usize>, sharing: usize) -> Result<NonZero<usize>> {
    let given = match (threads, env::var_os(VARIABLE)) {
        (Some(threads), _) => Some(threads),
        (None, Some(text)) => from_variable(&text.to_string_lossy())?,
        (None, None) => None,
    };
    let threads = match given {
        Some(threads) => threads.try_into()?,
        None => NonZero::new(available_parallelism()?.get() / sharing).unwrap_or(NonZero::<usize>::MIN),
    };
    disable_candles_pool();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .context("cannot set the number of threads after something was computed")?;
    train_ops::keep_freed_memory();
    Ok(threads)
}

/// Limits candle's own pool to one thread, through the environment variable that candle reads when it first
/// computes.
///
/// It does so only while this process has one thread: C code in another thread could read the environment at
/// the same time without a lock. With more threads, or an unknown number, candle keeps its pool; that affects
/// only speed.
pub(crate) fn disable_candles_pool() {
    if is_single_threaded() {
        // SAFETY: no other thread exists that could access the environment.
        #[allow(unsafe_code)]
        unsafe {
            env::set_var("CANDLE_NUM_THREADS", "1");
        }
    }
}

/// Whether this process is known to have one thread.
fn is_single_threaded() -> bool {
    let threads = || std::fs::read_dir("/proc/self/task").ok().map(Iterator::count);
    cfg!(target_os = "linux") && threads() == Some(1)
}

/// Parses the variable; as in rayon, 0 and the empty text mean all cores.
fn from_variable(text: &str) -> Result<Option<usize>> {
    if text.is_empty() {
        return Ok(None);
    }
    let threads: usize = text.parse().map_err(|_| {
        anyhow!("{VARIABLE} is `{text}`, which is not a number of threads; unset it, or use --threads")
    })?;
    Ok((threads > 0).then_some(threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_read_as_rayon_reads_it() {
        let read = |text| from_variable(text).map_err(|error| error.to_string());
        assert_eq!(["3", "0", ""].map(read), [Ok(Some(3)), Ok(None), Ok(None)]);
        assert!(read("all").unwrap_err().contains("RAYON_NUM_THREADS is `all`"));
    }

    #[test]
    fn the_environment_is_left_alone_while_other_threads_run() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stopped.recv());
        assert!(!is_single_threaded());
        drop(stop);
        let _ = other.join();
    }
}
