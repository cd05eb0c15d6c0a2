/// Why a kernel cannot be launched or loaded.
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
    /// The driver does not load the compiled kernels.
    #[error(
        "cannot load the kernel {function}: {reason}. The GPU has compute capability {capability} and its driver supports CUDA up to \
         {driver}; the kernels are PTX {version} for {target} and newer. A driver loads the PTX of CUDA toolkits that are no newer than \
         itself: update the driver, or build with an older toolkit"
    )]
    Load {
        /// The kernel.
        function: &'static str,
        /// The driver's error.
        reason: String,
        /// The GPU's compute capability.
        capability: String,
        /// The newest version of CUDA that the driver supports.
        driver: String,
        /// The version of the PTX, which the toolkit decides: 9.0 with CUDA 13.0.
        version: &'static str,
        /// The oldest GPUs that the PTX is for.
        target: &'static str,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
