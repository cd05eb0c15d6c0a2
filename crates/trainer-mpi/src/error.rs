/// The result of an operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a process cannot join a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program was built without the feature `mpi`.
    #[error("this program was built without MPI (the feature `mpi` of trainer-mpi)")]
    NotBuilt,
    /// The process has joined the job already, or has left it.
    #[error("MPI can be initialised once in a process, and this process has done so")]
    Initialised,
    /// The MPI library does not allow calls from a program with threads.
    #[error("the MPI library was built without support for threads (MPI_THREAD_SERIALIZED)")]
    Threads,
}
