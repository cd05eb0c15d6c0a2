//! The request of `--resume`: the saved flags of the run or of the sweep, replaced by those of the command
//! line.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::grid::runs;
use super::moved;
use super::request::{Request, exit};
use crate::finetune;
use crate::options::{Axis, Flags};
use crate::resume::folders::{folders_in, runs_below, saved_step};
use crate::resume::{Resumed, ResumedSweep, RunPlace, is_same};
use crate::run_folder::{RunRecord, RunState, SavedOptions};
use crate::terminal::say;

impl Request {
    /// Finds the run or the sweep that the command line continues. The result has its options, replaced by the
    /// flags of the command line. Without `--resume` the result is a new run or sweep. A contradictory command
    /// line ends the process, as in clap.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be read; the message describes what is there instead.
    pub fn resolve(self) -> Result<finetune::Request> {
        let Some(resume) = &self.resume else { return Ok(self.begin()) };
        let place = RunPlace::find(resume, self.options.data.output_dir.as_deref())?;
        if let Some(record) = place.record.as_ref().filter(|record| record.sweep) {
            return resumed_sweep(&self, place.folder.clone(), &record.options);
        }
        if !self.sweep.is_empty() {
            bail!(
                "--sweep begins several runs, and --resume continues the one in {}: leave one of them out",
                place.folder.display()
            );
        }
        let resumed = Resumed::open(&place)?;
        let continued = continued(&self, &resumed.options, &resumed.folder)?;
        let is_finished = place.record.is_some_and(|record| record.state == RunState::Finished);
        if is_finished && resumed.checkpoint.is_none() && !trains_longer(&self.flags) {
            say_finished(&resumed.folder, resumed.step);
        }
        Ok(finetune::Request { resumed: Some(resumed), ..continued })
    }
}

/// The request to continue the sweep in `folder`, which began with `options`.
fn resumed_sweep(request: &Request, folder: PathBuf, options: &SavedOptions) -> Result<finetune::Request> {
    let axes = options.sweep.as_slice();
    if axes.is_empty() {
        bail!(
            "an earlier version began the sweep in {}, without a record of its values: continue each of its runs{}",
            folder.display(),
            runs_below(&folder)
        );
    }
    let given = request.sweep.as_slice();
    if !given.is_empty() && given != axes {
        bail!(
            "--sweep was {} and is now {}: leave it out, or begin a new sweep without --resume",
            in_words(axes),
            in_words(given)
        );
    }
    if let Some(other) = &request.options.data.output_dir
        && !is_same(other, &folder)
    {
        bail!(
            "a sweep is continued in its own folder, which is {}: leave out --output-dir {}",
            folder.display(),
            other.display()
        );
    }
    // The runs have recorded the commits; they are the same for all.
    let commits = folders_in(&folder).iter().find_map(|run| {
        let record = RunRecord::read(run).ok().flatten()?;
        record.options.commits
    });
    let options = SavedOptions { commits, ..options.clone() };
    let mut continued = continued(request, &options, &folder)?;
    continued.sweep = axes.to_vec();
    runs(&continued, &folder).unwrap_or_else(|error| exit(&error));
    continued.resumed_sweep = Some(ResumedSweep { folder, given: request.flags.clone() });
    Ok(continued)
}

/// The request with the saved options of the run in `folder`, replaced by the request's own flags.
fn continued(request: &Request, options: &SavedOptions, folder: &Path) -> Result<finetune::Request> {
    let flags = options.flags_in(&std::env::current_dir()?);
    let given = &request.flags;
    let mut continued = request
        .continuing(&flags)
        .unwrap_or_else(|error| exit(&moved::gone_path(&error, given, options, folder).unwrap_or(error)));
    if let Some(error) = moved::gone_folder(&continued.options, given, options, folder) {
        exit(&error);
    }
    // Without additional flags, the command that began the run reproduces it.
    if given.given_arguments().is_empty() {
        continued.command.clone_from(&options.command);
    }
    moved::pin(&mut continued.options, given, options);
    Ok(continued.begin())
}

/// Whether flags of a command line make a run longer.
pub(super) fn trains_longer(given: &Flags) -> bool {
    ["num-train-epochs", "max-steps"].iter().any(|flag| given.is_given(flag))
}

/// Prints that the run is finished already, unless its last checkpoints are missing, so that steps remain.
fn say_finished(folder: &Path, step: usize) {
    if saved_step(folder) == Some(step as u64) {
        say(format_args!(
            "note: the run in {} is finished, after step {step}: its results are written again; to train longer, give \
             --num-train-epochs or --max-steps\n",
            folder.display()
        ));
    }
}

fn in_words(axes: &[Axis]) -> String {
    axes.iter().map(Axis::to_string).collect::<Vec<_>>().join(" ")
}
