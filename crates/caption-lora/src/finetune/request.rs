use anyhow::{Result, bail};

use crate::options::{Axis, Finetune, Flags};
use crate::resume::{Resume, Resumed, ResumedSweep, RunPlace};
use crate::shell;

/// A run or a sweep to begin or to continue: its options, and how they are recorded.
#[derive(Debug, Clone)]
pub struct Request {
    /// The options.
    pub options: Finetune,
    /// The options as flags, which are saved with the run.
    pub flags: Flags,
    /// The command line in shell syntax, for reports.
    pub command: String,
    /// The run to continue; `None` for a new one.
    pub resumed: Option<Resumed>,
    /// The options that a sweep varies; empty for a single run.
    pub sweep: Vec<Axis>,
    /// The sweep to continue; `None` for a new one.
    pub resumed_sweep: Option<ResumedSweep>,
}

impl Request {
    /// A new run with these options. Its record has them as flags, so that `caption-lora finetune --resume` can continue it.
    pub fn new(options: Finetune) -> Self {
        let flags = Flags::from(&options);
        let mut arguments = flags.given_arguments();
        if let Some(dir) = &options.data.output_dir {
            arguments.push(shell::with_path("--output-dir=", dir));
        }
        let command = shell::program_command(arguments);
        Self { options, flags, command, resumed: None, sweep: Vec::new(), resumed_sweep: None }
    }

    /// The continuation of a run. `options` must be those of the run, except for how long and how fast it
    /// trains, and when it evaluates, saves and ends.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be read, or it is a sweep.
    pub fn resuming(options: Finetune, resume: &Resume) -> Result<Self> {
        let place = RunPlace::find(resume, options.data.output_dir.as_deref())?;
        if place.record.as_ref().is_some_and(|record| record.sweep) {
            bail!("{} holds a sweep: continue each of its runs", place.folder.display());
        }
        let resumed = Some(Resumed::open(&place)?);
        Ok(Self { resumed, ..Self::new(options) })
    }
}
