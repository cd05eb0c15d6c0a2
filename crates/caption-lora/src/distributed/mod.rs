//! The processes of one job (`mpirun -n 4 ...`), which train one model together.

mod failure;
mod gpus;

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use candle_core::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trainer_core::{SingleProcess, Workers};
use trainer_mpi::{Error, Job, Launch};

use crate::hub::Location;
use crate::options::{DeviceName, Distributed, Hardware, cuda_cards};

pub(crate) use failure::{fail, is_first_launched};
use gpus::{gpu_of_rank, nccl_is_possible, over_nccl};

/// The processes of a run, from the view of one of them. A process that trains alone is a team of one.
#[derive(Clone)]
pub struct Team {
    /// The connection of the processes.
    pub(crate) workers: Arc<dyn Workers>,
    machines: usize,
    rank_here: usize,
    /// Number of processes that share the cores of this one, including itself.
    sharing: usize,
    /// Whether gradients go from GPU to GPU.
    uses_nccl: bool,
}

impl Team {
    /// A process that trains alone.
    pub(crate) fn alone() -> Self {
        Self { workers: Arc::new(SingleProcess), machines: 1, rank_here: 0, sharing: 1, uses_nccl: false }
    }

    /// The team of these workers, on one machine.
    #[cfg(test)]
    pub(crate) fn of(workers: impl Workers + 'static) -> Self {
        Self { workers: Arc::new(workers), ..Self::alone() }
    }

    /// The team of the job in which the process was launched, and its membership in the job.
    ///
    /// # Errors
    /// If the process is one of several and the program was built without MPI, if MPI cannot be initialised, or
    /// if NCCL is requested and the program or the device does not support it.
    pub(crate) fn join(hardware: &Hardware) -> Result<(Self, Option<Job>)> {
        let launch = Launch::detect();
        match (hardware.distributed, launch) {
            (Some(Distributed::None), _) | (None, None) => return Ok((Self::alone(), None)),
            (Some(Distributed::Nccl), _) => nccl_is_possible(hardware.device)?,
            (Some(Distributed::Mpi), _) | (None, Some(_)) => {}
        }
        let job = Job::join().map_err(|error| match (error, launch) {
            (Error::NotBuilt, Some(Launch { rank, count, .. })) => anyhow!(
                "this process was started as number {} of {count}, but the program was built without MPI: build it with \
                 --features mpi (which needs an MPI library and libclang), or let each process train by itself with \
                 --distributed none and an --output-dir of its own",
                rank + 1
            ),
            (Error::NotBuilt, None) => anyhow!(
                "--distributed mpi: the program was built without MPI: build it with --features mpi, which needs an MPI library \
                 and libclang"
            ),
            (error, _) => anyhow::Error::new(error),
        })?;
        let (workers, placement) = (job.workers(), job.placement());
        let mut team =
            Self { workers, machines: placement.machines, rank_here: placement.rank_here, ..Self::alone() };
        // Launchers may bind each process to its own cores. Processes with the same list of cores share them.
        let own = (placement.machine, allowed_cores());
        team.sharing = team.gather(&own)?.into_iter().filter(|other| *other == own).count();
        Ok((team, Some(job)))
    }

    /// Whether this process writes files and prints messages.
    pub(crate) fn leads(&self) -> bool {
        self.workers.rank() == 0
    }

    /// Number of processes that share the cores of this one, itself included.
    pub(crate) fn sharing(&self) -> usize {
        self.sharing
    }

    /// The device of this process. If there are several processes on a machine, each takes the next GPU,
    /// beginning with `first`. After the last GPU, `first` is taken again.
    pub(crate) fn device(&self, first: DeviceName) -> DeviceName {
        match first {
            DeviceName::Cuda(first) if self.workers.count() > 1 => {
                DeviceName::Cuda(gpu_of_rank(first, self.rank_here, cuda_cards()))
            }
            other => other,
        }
    }

    /// The team, with gradients sent from GPU to GPU if `choice` is NCCL. `device` is that of this process.
    ///
    /// # Errors
    /// If NCCL cannot connect the GPUs.
    pub(crate) fn connected(&self, choice: Option<Distributed>, device: &Device) -> Result<Self> {
        let mut team = self.clone();
        if choice == Some(Distributed::Nccl) && self.workers.count() > 1 {
            team.workers = over_nccl(&self.workers, device)?;
            team.uses_nccl = true;
        }
        Ok(team)
    }

    /// Whether all processes are on one machine.
    pub(crate) fn is_on_one_machine(&self) -> bool {
        self.machines == 1
    }

    /// The number of processes and machines as text, such as `4 on 2 machines`. It also has the number of
    /// processes that wait in a step of `batches` micro-batches, of which up to `fused` run together. `None`
    /// for a process that trains alone.
    pub(crate) fn summary(&self, batches: usize, fused: usize) -> Option<String> {
        let (count, passes) = (self.workers.count(), batches.div_ceil(fused));
        if count == 1 {
            return None;
        }
        let counted = |count: usize, one: &str, more: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {more}"),
        };
        let mut text = format!("{count} on {}", counted(self.machines, "machine", "machines"));
        if self.uses_nccl {
            text += ", gradients from GPU to GPU (NCCL)";
        }
        if passes < count {
            let passes_in_words = counted(passes, "pass", "passes");
            text += &format!("; a step has {passes_in_words}, so that {} of them wait: ", count - passes);
            text += match fused {
                1 => "--gradient-accumulation-steps makes larger steps",
                _ => "--fuse-accumulation 1 makes more passes, which round differently",
            };
        }
        Some(text)
    }

    /// The values of all processes, by rank.
    pub(crate) fn gather<V: Serialize + DeserializeOwned>(&self, value: &V) -> Result<Vec<V>> {
        let messages = self.workers.gather(&serde_json::to_vec(value)?).map_err(|error| anyhow!(error))?;
        let values = messages.iter().map(|message| serde_json::from_slice(message));
        values.collect::<Result<_, _>>().context("processes of the job are of different versions")
    }

    /// Returns the value of the first process to all. The first process passes the value, and the others
    /// `None`.
    pub(crate) fn share<V: Serialize + DeserializeOwned>(&self, value: Option<V>) -> Result<V> {
        let first = self.gather(&value)?.into_iter().next().flatten();
        first.context("the first process of the job sent nothing")
    }

    /// Waits until all processes have called this method.
    pub(crate) fn meet(&self) -> Result<()> {
        self.gather(&()).map(|_| ())
    }

    /// Opens inputs with `open`. If one of them is on the hub, the first process of each machine opens it
    /// before the others, so that these find the downloaded files in the cache. `open` must not wait for other
    /// processes.
    pub(crate) fn open<'a, R>(
        &self,
        inputs: impl IntoIterator<Item = &'a Location>,
        open: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        if !inputs.into_iter().any(|input| matches!(input, Location::Hub(_))) {
            return open();
        }
        if self.rank_here > 0 {
            self.meet()?;
        }
        let opened = open()?;
        if self.rank_here == 0 {
            self.meet()?;
        }
        Ok(opened)
    }
}

/// The processor's cores that this process may use, as listed by the system; empty if the system has no such
/// list.
fn allowed_cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use trainer_core::ThreadWorkers;

    use super::*;

    #[test]
    fn the_summary_says_who_waits() {
        let team =
            |count: usize, machines| Team { machines, ..Team::of(ThreadWorkers::new(count).remove(0)) };
        assert_eq!(team(1, 1).summary(4, 4), None);
        assert_eq!(team(4, 2).summary(4, 1).as_deref(), Some("4 on 2 machines"));
        let fused = team(4, 1).summary(4, 4).unwrap();
        assert!(
            fused.starts_with("4 on 1 machine; a step has 1 pass, so that 3 of them wait: --fuse"),
            "{fused}"
        );
        let small = team(8, 2).summary(4, 1).unwrap();
        assert!(small.contains("4 passes, so that 4 of them wait: --gradient-accumulation-steps"), "{small}");
    }

    #[test]
    fn processes_share_values() {
        let teams = ThreadWorkers::new(3).into_iter().map(Team::of);
        let shared = std::thread::scope(|scope| {
            let threads: Vec<_> = teams
                .map(|team| {
                    scope.spawn(move || {
                        let rank = team.workers.rank();
                        let first = team.share(team.leads().then_some(rank + 7)).unwrap();
                        (first, team.gather(&rank).unwrap())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(shared, vec![(7, vec![0, 1, 2]); 3]);
    }
}
