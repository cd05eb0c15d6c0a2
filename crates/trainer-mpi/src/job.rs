use std::sync::Arc;

use mpi::Threading;
use mpi::environment::{Universe, initialize_with_threading};
use mpi::traits::{Communicator, CommunicatorCollectives};
use trainer_core::Workers;

use crate::transport::MpiWorkers;
use crate::{Error, Placement, Result};

/// The membership of this process in an MPI job.
///
/// **A process must not end alone**: the others would wait for it forever. [`finish`](Self::finish) leaves the job together
/// with all others. A job that is dropped otherwise, because an error returns from `main` or a panic unwinds, ends all
/// processes at once; print the error first, or use [`abort`](Self::abort).
pub struct Job {
    /// Taken by `finish`.
    universe: Option<Universe>,
    workers: Arc<MpiWorkers>,
    placement: Placement,
}

impl Job {
    /// Joins the job that the process was launched in; alone, the process is a job of one. Blocks until all processes have
    /// joined. Call it before other threads use MPI, and before threads of other libraries are started.
    ///
    /// # Errors
    /// [`Error::Initialised`] for a second call, [`Error::Threads`] if the library forbids threads, [`Error::NotBuilt`]
    /// without the feature `mpi`.
    pub fn join() -> Result<Self> {
        let (universe, threading) =
            initialize_with_threading(Threading::Serialized).ok_or(Error::Initialised)?;
        if threading < Threading::Serialized {
            return Err(Error::Threads);
        }
        let world = universe.world();
        let here = world.split_shared(world.rank());
        // Each machine is known by the rank of its first process.
        let mut ranks = vec![0; here.size() as usize];
        here.all_gather_into(&world.rank(), &mut ranks[..]);
        let first = ranks.into_iter().min().unwrap_or_default();
        let mut first_of_all = vec![0; world.size() as usize];
        world.all_gather_into(&first, &mut first_of_all[..]);
        first_of_all.sort_unstable();
        first_of_all.dedup();
        let placement = Placement {
            machines: first_of_all.len(),
            machine: first_of_all.iter().position(|other| *other == first).unwrap_or_default(),
            processes_here: here.size() as usize,
            rank_here: here.rank() as usize,
        };
        let workers = Arc::new(MpiWorkers::new(&world));
        Ok(Self { universe: Some(universe), workers, placement })
    }

    /// The processes of the job as workers. Their calls return errors after the job has ended.
    pub fn workers(&self) -> Arc<dyn Workers> {
        Arc::clone(&self.workers) as Arc<dyn Workers>
    }

    /// Where the processes run.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Leaves the job when all processes have called this.
    pub fn finish(mut self) {
        self.workers.meet();
        // Finalises MPI.
        self.universe.take();
    }

    /// Ends all processes of the job at once; `code` is the exit code of this one.
    pub fn abort(&self, code: i32) -> ! {
        match &self.universe {
            Some(universe) => universe.world().abort(code),
            None => std::process::exit(code),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.universe.is_some() {
            self.abort(1);
        }
    }
}
