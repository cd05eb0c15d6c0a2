/// Why a kernel cannot be launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size is beyond what the kernel was written for.
    #[error("the kernel {kernel} works on at most {most} {what}, not on {got}")]
    Size {
        /// The kernel.
        kernel: &'static str,
        /// The quantity.
        what: &'static str,
        /// The largest number that is supported.
        most: usize,
        /// The number given.
        got: usize,
    },
    /// Sizes that contradict each other.
    #[error("the kernel {kernel} needs {expected}, and got {got}")]
    Mismatch {
        /// The kernel.
        kernel: &'static str,
        /// The value that is needed.
        expected: String,
        /// The value that was given.
        got: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
