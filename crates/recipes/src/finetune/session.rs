use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use trainer_core::StopSignal;

use super::{Ending, run};
use crate::cli::{self, Finetune, SweepRun};
use crate::features::FeatureStore;
use crate::report::{Run, write_comparison};
use crate::terminal::{say, say_error, warn};

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: that of a program ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The state that the runs of one process share: threads, Ctrl-C, and image features.
pub struct Session {
    pub(super) threads: NonZero<usize>,
    /// The signal of the run that Ctrl-C stops; requested where none is training, so that Ctrl-C ends at once.
    stop: Arc<Mutex<StopSignal>>,
    /// Whether several runs share this session, so that later ones may need the features of other pictures.
    pub(super) sweeps: bool,
    /// Image features, once they are computed.
    pub(super) features: Option<Arc<FeatureStore>>,
}

impl Session {
    /// Sets the number of threads and the handler of Ctrl-C. Call it once, first thing in `main`.
    ///
    /// # Errors
    /// If something has been computed before, or a handler is set already.
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
        Ok(Self { threads, stop, sweeps: !options.data.sweep.is_empty(), features: None })
    }

    /// The signal of a new run.
    pub(super) fn stop_signal(&self) -> StopSignal {
        let signal = StopSignal::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = signal.clone();
        signal
    }
}

/// Runs a grid of options one after another, and compares the results on one page.
///
/// # Errors
/// Those of [`run`], and if the page cannot be written.
pub fn sweep(options: &Finetune, runs: &[SweepRun], session: &mut Session) -> Result<Ending> {
    for (number, sweep) in (1..).zip(runs) {
        say(format_args!("\nrun {number} of {}: {}", runs.len(), sweep.name));
        if run(&sweep.options, &sweep.command, session)? == Ending::Interrupted {
            return Ok(Ending::Interrupted);
        }
    }
    let finished = runs
        .iter()
        .map(|sweep| Ok(Run { name: sweep.name.clone(), ..Run::read(&sweep.options.data.output_dir)? }))
        .collect::<Result<Vec<_>>>()?;
    let page = options.data.output_dir.join("compare.html");
    write_comparison(&finished, &page)?;
    say(format_args!("\n{} runs compared in {}", runs.len(), page.display()));
    Ok(Ending::Finished)
}
