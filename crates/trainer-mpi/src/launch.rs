/// A job of several processes that this process was started in, as its environment says. Nothing is initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Number of this process, from 0.
    pub rank: usize,
    /// Number of processes, at least 2.
    pub count: usize,
}

/// The variables of launchers for a process's number and the number of processes: Open MPI; MPICH, Intel MPI and others with
/// the process management interface; MVAPICH; SLURM. Those of a SLURM step are set by `srun` only, not by `sbatch`, whose
/// script runs in one process.
const VARIABLES: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

impl Launch {
    /// The job of this process; `None` if it was started alone, or as the only process of a job.
    pub fn detect() -> Option<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let jobs = VARIABLES
            .iter()
            .filter_map(|(rank, count)| Some(Self { rank: number(rank)?, count: number(count)? }));
        jobs.into_iter().find(|job| job.count > 1 && job.rank < job.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Option<(usize, usize)> {
        let value = |name: &str| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).to_owned())
        };
        Launch::from_variables(value).map(|launch| (launch.rank, launch.count))
    }

    #[test]
    fn jobs_of_all_launchers_are_seen() {
        assert_eq!(launch(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")]), Some((2, 4)));
        assert_eq!(launch(&[("PMI_RANK", "0"), ("PMI_SIZE", "3")]), Some((0, 3)));
        assert_eq!(launch(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")]), Some((1, 2)));
        // mpirun within an allocation of SLURM, whose step has one task for each machine.
        let nested = [
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
            ("OMPI_COMM_WORLD_RANK", "5"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
        ];
        assert_eq!(launch(&nested), Some((5, 8)));
    }

    #[test]
    fn a_single_process_is_no_job() {
        assert_eq!(launch(&[]), None);
        assert_eq!(launch(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]), None);
        // The script of sbatch has the number of tasks of the job, but is no step.
        assert_eq!(launch(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), None);
        assert_eq!(launch(&[("PMI_RANK", "x"), ("PMI_SIZE", "3")]), None);
    }
}
