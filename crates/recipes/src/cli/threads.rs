use std::env;
use std::num::NonZero;
use std::thread::available_parallelism;

use anyhow::{Result, anyhow};

/// The variable that says how many threads programs with rayon use.
const VARIABLE: &str = "RAYON_NUM_THREADS";

/// Sets the number of threads and returns it: `threads`, else what the variable `RAYON_NUM_THREADS` says, else all cores. Has
/// memory kept between steps. Call it once, first thing in `main`.
///
/// # Errors
/// If something has been computed before, or the variable is not a number.
pub fn use_threads(threads: Option<usize>) -> Result<NonZero<usize>> {
    let given = match (threads, env::var_os(VARIABLE)) {
        (Some(threads), _) => Some(threads),
        (None, Some(text)) => from_variable(&text.to_string_lossy())?,
        (None, None) => None,
    };
    let threads = match given {
        Some(threads) => threads.try_into()?,
        None => available_parallelism()?,
    };
    train_ops::use_threads(threads)?;
    train_ops::keep_freed_memory();
    Ok(threads)
}

/// What the variable says; as in rayon, 0 and nothing are all cores.
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
    use super::from_variable;

    #[test]
    fn the_variable_is_read_as_rayon_reads_it() {
        let read = |text| from_variable(text).map_err(|error| error.to_string());
        assert_eq!(["3", "0", ""].map(read), [Ok(Some(3)), Ok(None), Ok(None)]);
        assert!(read("all").unwrap_err().contains("RAYON_NUM_THREADS is `all`"));
    }
}
