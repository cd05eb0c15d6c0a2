use std::sync::Arc;

use trainer_core::Workers;

use crate::{Error, Placement, Result};

/// The membership of this process in an MPI job. Without the feature `mpi` there is none.
#[derive(Debug)]
pub enum Job {}

impl Job {
    /// Joins the job that the process was launched in.
    ///
    /// # Errors
    /// [`Error::NotBuilt`].
    pub fn join() -> Result<Self> {
        Err(Error::NotBuilt)
    }

    /// The processes of the job as workers.
    pub fn workers(&self) -> Arc<dyn Workers> {
        match *self {}
    }

    /// Where the processes run.
    pub fn placement(&self) -> Placement {
        match *self {}
    }

    /// Leaves the job when all processes have called this.
    pub fn finish(self) {
        match self {}
    }

    /// Ends all processes of the job at once; `code` is the exit code of this one.
    pub fn abort(&self, _code: i32) -> ! {
        match *self {}
    }
}
