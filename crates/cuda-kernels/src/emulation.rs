//! Runs the kernels on the CPU, for tests.
//!
//! The kernels are compiled by a C++ compiler with `kernels/host/cuda_on_host.h` in place of CUDA, whose head says what it shows. Threads
//! run in an order that a seed decides, so that a race can show as a result that depends on it. Pointers are addresses of this process.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use libloading::Library;

use crate::Launch;

type Run = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    c_uint,
    *mut *mut c_void,
) -> c_int;
type Describe = unsafe extern "C" fn() -> *const c_char;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn cuda_on_host_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        shared_bytes: c_uint,
        seed: c_uint,
        arguments: *mut *mut c_void,
    ) -> c_int;
    fn cuda_on_host_fault() -> *const c_char;
}

/// Why a kernel did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulationError {
    /// The library of kernels cannot be opened.
    #[error("kernels cannot be loaded")]
    Library(#[from] libloading::Error),
    /// There is no such kernel.
    #[error("there is no kernel {0}")]
    Missing(String),
    /// A fault that would be undefined behaviour or an error on a GPU.
    #[error("kernel {kernel}: {fault}")]
    Fault {
        /// The kernel.
        kernel: String,
        /// The fault.
        fault: String,
    },
}

/// Kernels compiled for the CPU.
#[derive(Debug)]
pub struct Emulator {
    run: Run,
    describe: Describe,
    /// Keeps the functions in memory.
    _library: Option<Library>,
}

/// The emulation has one block's state for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Emulator {
    /// The kernels of this crate.
    pub fn built_in() -> Self {
        Self { run: cuda_on_host_launch, describe: cuda_on_host_fault, _library: None }
    }

    /// Kernels that were compiled to a shared library with the same header, as the tests do to see faults that they plant.
    ///
    /// # Errors
    /// If the library cannot be opened or lacks the header's functions.
    ///
    /// # Safety
    /// The library runs code when it is opened, and its kernels must be those that the launches expect.
    #[allow(unsafe_code)]
    pub unsafe fn open(path: &Path) -> Result<Self, EmulationError> {
        // SAFETY: as the caller assures; the types are those of the header's functions.
        unsafe {
            let library = Library::new(path)?;
            let run = *library.get::<Run>(b"cuda_on_host_launch\0")?;
            let describe = *library.get::<Describe>(b"cuda_on_host_fault\0")?;
            Ok(Self { run, describe, _library: Some(library) })
        }
    }

    /// Runs a kernel to its end. The seed decides the order of blocks, warps and lanes: 0 is their own order, 1 the opposite;
    /// with others, a random thread continues wherever one waits.
    ///
    /// # Errors
    /// [`EmulationError::Missing`] and [`EmulationError::Fault`].
    ///
    /// # Safety
    /// As for any launch: the memory that it was made for must be there and as large as the kernel expects.
    #[allow(unsafe_code)]
    pub unsafe fn run(&self, launch: &Launch, seed: u32) -> Result<(), EmulationError> {
        if launch.is_empty() {
            return Ok(());
        }
        let missing = || EmulationError::Missing(launch.function.to_owned());
        let name = CString::new(launch.function).map_err(|_| missing())?;
        let block = [launch.threads, 1, 1];
        let mut words = launch.arguments().to_vec();
        let mut argument: *mut c_void = words.as_mut_ptr().cast();
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the pointers are valid during the call; the kernel is the caller's concern.
        let code = unsafe {
            let grid = launch.grid.as_ptr();
            (self.run)(name.as_ptr(), grid, block.as_ptr(), launch.shared_bytes, seed, &mut argument)
        };
        match code {
            0 => Ok(()),
            1 => Err(missing()),
            _ => {
                // SAFETY: the header returns a string that is valid until the next launch.
                let fault = unsafe { CStr::from_ptr((self.describe)()) };
                let fault = fault.to_string_lossy().into_owned();
                Err(EmulationError::Fault { kernel: launch.function.to_owned(), fault })
            }
        }
    }
}
