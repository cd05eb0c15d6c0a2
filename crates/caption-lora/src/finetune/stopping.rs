//! Signals that ask a run to stop: Ctrl-C, SIGTERM and SIGUSR1.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use trainer_core::{SavedCheckpoint, StopSignal};

use super::INTERRUPTED;
use crate::distributed::Team;
use crate::shell;
use crate::terminal::say_error;

/// The current run of the process, for the signal handlers.
pub(super) struct Stopping {
    /// While no run trains the signal is already set, so that Ctrl-C ends the process at once.
    stop: Mutex<StopSignal>,
    /// The folder of the run or of its sweep.
    folder: Mutex<Option<PathBuf>>,
    is_in_job: bool,
    speaks: bool,
}

impl Stopping {
    /// Listens to the signals. SIGUSR1 is what launchers of jobs pass on to all processes (`kill -USR1` to mpirun,
    /// `sbatch --signal=USR1@120`), while Ctrl-C makes them end the processes within seconds.
    pub(super) fn on_signals(team: &Team) -> Result<Arc<Self>> {
        let none = StopSignal::new();
        none.request();
        let stopping = Arc::new(Self {
            stop: Mutex::new(none),
            folder: Mutex::new(None),
            is_in_job: team.workers.count() > 1,
            speaks: team.leads(),
        });
        let current = Arc::clone(&stopping);
        ctrlc::set_handler(move || current.ask(true))?;
        #[cfg(unix)]
        {
            let current = Arc::clone(&stopping);
            let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1])?;
            std::thread::spawn(move || signals.forever().for_each(|_| current.ask(false)));
        }
        Ok(stopping)
    }

    /// A stop signal for a new run in `folder`.
    pub(super) fn begin(&self, folder: &Path) -> StopSignal {
        let signal = StopSignal::new();
        *locked(&self.folder) = Some(folder.to_owned());
        *locked(&self.stop) = signal.clone();
        signal
    }

    /// Requests the run to stop. A second request ends the process if `insists`.
    fn ask(&self, insists: bool) {
        let current = locked(&self.stop);
        if current.is_requested() {
            if insists {
                std::process::exit(INTERRUPTED.into());
            }
            return;
        }
        current.request();
        if !self.speaks {
            return;
        }
        if self.is_in_job {
            say_error(
                "stopping, as requested (this also happens if another process of the job is lost): saving after this step if there is time",
            );
            self.advice().map(say_error);
        } else {
            say_error("finishing this step, then saving; Ctrl-C once more ends at once");
        }
    }

    /// How to continue the run, if it has saved a checkpoint.
    pub(super) fn advice(&self) -> Option<String> {
        let folder = locked(&self.folder).clone()?;
        let has_checkpoints = SavedCheckpoint::list(&folder).is_ok_and(|saved| !saved.is_empty());
        has_checkpoints.then(|| {
            let command = shell::finetune_command(&["--resume".as_ref(), folder.as_os_str()]);
            format!("any number of processes continues the run: {command}")
        })
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
