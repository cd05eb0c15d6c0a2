use std::ffi::OsString;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use peft_lora::LoraConfig;
use trainer_core::StopSignal;

use super::{Ending, OutputFolder, run_in};
use crate::cli::{self, Finetune, Request};
use crate::features::FeatureStore;
use crate::identity::Contents;
use crate::report::{Run, write_comparison};
use crate::run_folder::{RunState, SavedOptions};
use crate::terminal::{say, say_error, warn};

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: the usual code of a
/// program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The state that the runs of one process share: threads, Ctrl-C, and image features.
pub struct Session {
    pub(super) threads: NonZero<usize>,
    /// The stop signal of the current run, set by Ctrl-C. While no run trains it is already set, so that
    /// Ctrl-C ends the process at once.
    stop: Arc<Mutex<StopSignal>>,
    /// Whether several runs share this session, so that later ones may need features of other pictures.
    pub(super) sweeps: bool,
    /// Image features, once computed.
    pub(super) features: Option<Arc<FeatureStore>>,
    /// Fingerprints of the model and the dataset, once read.
    pub(super) contents: Option<Contents>,
}

impl Session {
    /// Sets the number of threads and the Ctrl-C handler. Call it once, first thing in `main`.
    ///
    /// # Errors
    /// If something was computed before this call, or a handler is already set.
    pub fn new(options: &Finetune) -> Result<Self> {
        if cfg!(debug_assertions) {
            warn("this is a debug build, many times slower; use cargo run --release");
        }
        let threads = cli::use_threads(options.hardware.threads)?;
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
        Ok(Self { threads, stop, sweeps: !options.data.sweep.is_empty(), features: None, contents: None })
    }

    /// A stop signal for a new run.
    pub(super) fn stop_signal(&self) -> StopSignal {
        let signal = StopSignal::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = signal.clone();
        signal
    }
}

/// Runs a grid of options one after another, and compares the results on one page. `arguments` is the command
/// line of `request`.
///
/// # Errors
/// Those of [`run`](super::run), and if the page cannot be written. Unusable output folders are detected
/// before the first run begins.
pub fn sweep(request: &Request, arguments: Vec<OsString>, session: &mut Session) -> Result<Ending> {
    let options = &request.options;
    let folder = OutputFolder::claim_for_sweep(options)?;
    let runs = options.sweep(arguments, &folder.path)?;
    let folders = runs.iter().map(|sweep| OutputFolder::claim(&sweep.request)).collect::<Result<Vec<_>>>()?;
    folder.begin("sweep", &saved_options(request, None)?, true, &["compare.html"])?;

    for (number, (sweep, folder)) in (1..).zip(runs.iter().zip(&folders)) {
        say(format_args!("\nrun {number} of {}: {}", runs.len(), sweep.name));
        if run_in(folder.clone(), &sweep.request, session)? == Ending::Interrupted {
            folder.set_state(RunState::Interrupted)?;
            return Ok(Ending::Interrupted);
        }
    }
    let finished = runs.iter().zip(&folders);
    let finished =
        finished.map(|(sweep, folder)| Ok(Run { name: sweep.name.clone(), ..Run::read(&folder.path)? }));
    let page = folder.path.join("compare.html");
    write_comparison(&finished.collect::<Result<Vec<_>>>()?, &page)?;
    folder.set_state(RunState::Finished)?;
    say(format_args!("\n{} runs compared in {}", runs.len(), page.display()));
    Ok(Ending::Finished)
}

/// The options of a run, as saved in its folder and its checkpoints.
pub(super) fn saved_options(request: &Request, adapter_config: Option<LoraConfig>) -> Result<SavedOptions> {
    // Relative paths start from the working directory. A run resumed from elsewhere has absolute ones.
    let directory = std::env::current_dir()?;
    Ok(SavedOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: request.command.clone(),
        directory,
        flags: request.flags.clone(),
        adapter_config,
    })
}
