use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use caption_model::CaptionCheckpoint;
use captioner::open_checkpoint;
use peft_lora::LoraConfig;
use trainer_core::StopSignal;

use super::identity::Contents;
use super::{Inputs, Request};
use crate::features::FeatureStore;
use crate::resume;
use crate::run_folder::{Commits, SavedOptions};
use crate::terminal::{say_error, warn};
use crate::threads::use_threads;

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: the usual code of a
/// program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The state that the runs of one process share: threads, Ctrl-C, inputs, and image features.
pub struct Session {
    pub(super) threads: NonZero<usize>,
    /// The stop signal of the current run, set by Ctrl-C. While no run trains it is already set, so that
    /// Ctrl-C ends the process at once.
    stop: Arc<Mutex<StopSignal>>,
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
    /// Sets the number of threads, as [`use_threads`] does, and the Ctrl-C handler. Call it once, first thing in `main`.
    ///
    /// # Errors
    /// If something was computed before this call, or a handler is already set.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        if cfg!(debug_assertions) {
            warn("this is a debug build, many times slower; use cargo run --release");
        }
        let threads = use_threads(threads)?;
        let none = StopSignal::new();
        none.request();
        let stop = Arc::new(Mutex::new(none));
        let current = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            let current = current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.is_requested() {
                std::process::exit(INTERRUPTED.into());
            }
            current.request();
            say_error("finishing this step, then saving; Ctrl-C once more ends at once");
        })?;
        Ok(Self { threads, stop, sweep_folder: None, inputs: None, features: None, contents: None })
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
        let opened = Inputs::open(&request.options);
        let (checkpoint, inputs) = opened.map_err(|error| resume::with_commits(error, request))?;
        let inputs = Arc::new(inputs);
        self.inputs = self.sweeps().then(|| Arc::clone(&inputs));
        Ok((checkpoint, inputs))
    }

    /// Whether several runs share this session, so that later ones may need features of other pictures.
    pub(super) fn sweeps(&self) -> bool {
        self.sweep_folder.is_some()
    }

    /// A stop signal for a new run.
    pub(super) fn stop_signal(&self) -> StopSignal {
        let signal = StopSignal::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = signal.clone();
        signal
    }
}

/// The options of a run, as saved in its folder and its checkpoints. `commits` are those of its inputs; a
/// sweep has none.
pub(super) fn saved_options(
    request: &Request,
    adapter_config: Option<LoraConfig>,
    commits: Option<Commits>,
) -> Result<SavedOptions> {
    // Relative paths start from the working directory. A run resumed from elsewhere has absolute ones.
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
