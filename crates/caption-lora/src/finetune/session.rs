use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use caption_model::CaptionCheckpoint;
use captioner::open_checkpoint;
use peft_lora::LoraConfig;
use trainer_core::StopSignal;
use trainer_mpi::Job;

use super::identity::Contents;
use super::stopping::Stopping;
use super::{Ending, Inputs, OutputFolder, Request};
use crate::distributed::{Team, fail};
use crate::features::FeatureStore;
use crate::options::Hardware;
use crate::resume;
use crate::run_folder::{Commits, SavedOptions};
use crate::terminal::{be_quiet, warn};
use crate::threads::{disable_candles_pool, use_part_of_threads};

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: the usual code of a
/// program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The state that the runs of one process share: threads, Ctrl-C, inputs, image features, and the other processes of its job.
pub struct Session {
    pub(super) threads: NonZero<usize>,
    pub(super) team: Team,
    /// The membership in the job, which ends with [`run`](Self::run).
    job: Option<Job>,
    stopping: Arc<Stopping>,
    /// The folder of the sweep whose runs share this session.
    pub(super) sweep_folder: Option<PathBuf>,
    /// The inputs, once opened; the same for all runs of a sweep.
    inputs: Option<Arc<Inputs>>,
    /// Image features, once computed.
    pub(super) features: Option<Arc<FeatureStore>>,
    /// Fingerprints of the model and the dataset, once read.
    pub(super) contents: Option<Contents>,
}

impl Session {
    /// Sets the number of threads, as [`use_threads`](crate::threads::use_threads) does, and the Ctrl-C
    /// handler. Call it once, at the beginning of `main`.
    ///
    /// # Errors
    /// If something was computed before this call, or a handler is already set.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with(threads, Team::alone())
    }

    /// As [`new`](Self::new), for a process that may be one of several in an MPI job, which train together. Do
    /// the work in [`run`](Self::run): if the session of a job is dropped without it, the whole job ends.
    ///
    /// # Errors
    /// As [`new`](Self::new); if the process was launched as one of several and the program was built without
    /// MPI; if MPI cannot be initialised. Once the process is part of the job, it prints an error and ends the
    /// job instead.
    pub fn start(hardware: &Hardware) -> Result<Self> {
        // First, because MPI starts threads.
        disable_candles_pool();
        let (team, job) = Team::join(hardware)?;
        if !team.leads() {
            be_quiet();
        }
        match (Self::with(hardware.threads, team.clone()), job) {
            (Ok(session), job) => Ok(Self { job, ..session }),
            (Err(error), Some(job)) => fail(&team, &job, &error, None),
            (Err(error), None) => Err(error),
        }
    }

    fn with(threads: Option<usize>, team: Team) -> Result<Self> {
        if cfg!(debug_assertions) {
            warn("this is a debug build, many times slower; use cargo run --release");
        }
        let threads = use_part_of_threads(threads, team.sharing())?;
        let stopping = Stopping::on_signals(&team)?;
        Ok(Self {
            threads,
            team,
            job: None,
            stopping,
            sweep_folder: None,
            inputs: None,
            features: None,
            contents: None,
        })
    }

    /// Does the work of this process, and leaves the job.
    ///
    /// # Errors
    /// The errors of `work`. A process of a job does not return them: it prints the error and how to continue,
    /// and ends the job, because the others would wait for it. A panic ends the job too.
    pub fn run(mut self, work: impl FnOnce(&mut Self) -> Result<Ending>) -> Result<Ending> {
        let ended = work(&mut self);
        match (ended, self.job.take()) {
            (Ok(ending), Some(job)) => {
                job.finish();
                Ok(ending)
            }
            (Err(error), Some(job)) => fail(&self.team, &job, &error, self.stopping.advice().as_deref()),
            (ended, None) => ended,
        }
    }

    /// The output folder of a run, as [`OutputFolder::claim`]. In a job the first process claims it for all.
    ///
    /// # Errors
    /// As [`OutputFolder::claim`].
    pub fn claim(&self, request: &Request) -> Result<OutputFolder> {
        self.claimed(|| OutputFolder::claim(request))
    }

    /// The output folder of a sweep, as [`claim`](Self::claim) for a run.
    ///
    /// # Errors
    /// As [`OutputFolder::claim_for_sweep`].
    pub fn claim_for_sweep(&self, request: &Request) -> Result<OutputFolder> {
        self.claimed(|| OutputFolder::claim_for_sweep(request))
    }

    fn claimed(&self, claim: impl FnOnce() -> Result<OutputFolder>) -> Result<OutputFolder> {
        let own = self.team.leads().then(claim).transpose()?;
        let path: PathBuf = self.team.share(own.as_ref().map(|folder| folder.path.clone()))?;
        Ok(own.unwrap_or_else(|| OutputFolder::of_another_process(path)))
    }

    /// Opens the inputs of a run: the model, the dataset and its split. A sweep reads and checks the rows once,
    /// and only the checkpoint is opened for each run.
    ///
    /// # Errors
    /// If an input cannot be read, or a row cannot be used.
    pub fn open(&mut self, request: &Request) -> Result<(Box<dyn CaptionCheckpoint>, Arc<Inputs>)> {
        if let Some(inputs) = &self.inputs {
            return Ok((open_checkpoint(&inputs.dir)?, Arc::clone(inputs)));
        }
        let opened = Inputs::open_in(&request.options, &self.team);
        let (checkpoint, inputs) = opened.map_err(|error| resume::with_commits(error, request))?;
        let inputs = Arc::new(inputs);
        self.inputs = self.sweeps().then(|| Arc::clone(&inputs));
        Ok((checkpoint, inputs))
    }

    /// Whether several runs share this session, so that later ones may need features of other pictures.
    pub(super) fn sweeps(&self) -> bool {
        self.sweep_folder.is_some()
    }

    /// A stop signal for a new run in `folder`.
    pub(super) fn stop_signal(&self, folder: &Path) -> StopSignal {
        self.stopping.begin(self.sweep_folder.as_deref().unwrap_or(folder))
    }
}

/// The options of a run, as saved in its folder and its checkpoints. `commits` are those of its inputs; a
/// sweep has none.
pub(super) fn saved_options(
    request: &Request,
    adapter_config: Option<LoraConfig>,
    commits: Option<Commits>,
) -> Result<SavedOptions> {
    // Relative paths begin at the working directory. A run that is resumed from another directory has absolute
    // paths.
    let directory = std::env::current_dir()?;
    Ok(SavedOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: request.command.clone(),
        directory,
        flags: request.flags.clone(),
        adapter_config,
        commits,
        sweep: request.sweep.clone(),
    })
}
