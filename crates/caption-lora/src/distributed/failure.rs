//! The end of a job in which a process failed.

use std::thread::sleep;
use std::time::Duration;

use trainer_mpi::{Job, Launch};

use super::Team;
use crate::terminal::{one_line, say_error};

/// How long a process with an error waits for the first one, which may have the same error and prints it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends a process of the job with an error. This ends the whole job, because the others would wait for it.
pub(crate) fn fail(team: &Team, job: &Job, error: &anyhow::Error, advice: Option<&str>) -> ! {
    let who = if team.leads() {
        String::new()
    } else {
        sleep(PATIENCE);
        format!(" in process {} of {}", team.workers.rank() + 1, team.workers.count())
    };
    say_error(format_args!("error{who}: {}", one_line(error)));
    if let Some(advice) = advice {
        say_error(advice);
    }
    job.abort(1)
}

/// Whether this process is the first of those that were launched, or was launched alone. If not, waits for a moment: the
/// first one may have the same error, which it reports before it ends the job.
pub(crate) fn is_first_launched() -> bool {
    let is_first = Launch::detect().is_none_or(|launch| launch.rank == 0);
    if !is_first {
        sleep(PATIENCE);
    }
    is_first
}
