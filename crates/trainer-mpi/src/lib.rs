//! The processes of an MPI job as [`Workers`] of `trainer-core`.
//!
//! A job is started by `mpirun`, `mpiexec` or `srun`, on one machine or on many. [`Launch::detect`] sees that in the
//! environment; [`Job::join`] connects the process with the others; [`Job::workers`] goes to
//! [`Trainer::workers`](trainer_core::Trainer::workers). The engine then divides each step among the processes, and the
//! result has the bits of a single process.
//!
//! ```no_run
//! use trainer_mpi::{Job, Launch};
//! # fn train(_: std::sync::Arc<dyn trainer_core::Workers>) -> Result<(), trainer_core::BoxError> { Ok(()) }
//!
//! fn main() -> Result<(), trainer_core::BoxError> {
//!     let job = Job::join()?;
//!     train(job.workers())?; // an error or a panic ends the whole job: see `Job`
//!     job.finish();
//!     Ok(())
//! }
//! ```
//!
//! The feature `mpi` compiles the connection. Its build needs an MPI library with its headers, such as Open MPI or MPICH, and
//! libclang (on Debian: `apt install libopenmpi-dev libclang-dev`). Without the feature there is the same interface, and
//! [`Job::join`] is an error, so that a program can depend on this crate and leave the choice to its own build.

mod error;
#[cfg_attr(not(feature = "mpi"), path = "without_mpi.rs")]
mod job;
mod launch;
#[cfg(feature = "mpi")]
mod patience;
#[cfg(feature = "mpi")]
mod started;
#[cfg(feature = "mpi")]
mod transport;

pub use error::{Error, Result};
pub use job::Job;
pub use launch::Launch;

#[cfg(doc)]
use trainer_core::Workers;

/// Where the processes of a job run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placement {
    /// Number of machines.
    pub machines: usize,
    /// Number of this machine, from 0.
    pub machine: usize,
    /// Number of processes on this machine.
    pub processes_here: usize,
    /// Number of this process among those on this machine, from 0.
    pub rank_here: usize,
}
