//! Finds the run or the sweep that `--resume` continues, and its options.

mod moved;
mod place;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use trainer_core::{SavedCheckpoint, SavedRun};

use crate::cli::{Axis, Flags, Request, Resume};
use crate::run_folder::{RunRecord, RunState, SavedOptions};
use crate::terminal::say;

pub use moved::with_commits;

/// The run to continue.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Its folder.
    pub folder: PathBuf,
    /// The checkpoint that was named; `None` for the newest undamaged one.
    pub checkpoint: Option<PathBuf>,
    /// The checkpoint that the options come from: the named one, else the newest.
    pub newest: PathBuf,
    /// The run's state in that checkpoint.
    pub run: SavedRun,
    /// The run's saved options.
    pub options: SavedOptions,
}

impl Resumed {
    /// Finds the run or the sweep that a request continues. The result has its options, replaced by the flags
    /// in the request. A request without `--resume` is returned unchanged. A contradictory command line ends
    /// the process, as in clap.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be read; the message describes what is there instead.
    pub fn find(request: Request) -> Result<Request> {
        let Some(resume) = &request.options.training.resume else { return Ok(request) };
        let output_dir = request.options.data.output_dir.as_deref();
        let (folder, checkpoint) = match resume {
            Resume::Latest => {
                (output_dir.map_or_else(place::newest_default, |dir| Ok(dir.to_owned()))?, None)
            }
            Resume::From(path) => place::place(path, output_dir)?,
        };
        // A record that cannot be read is no obstacle, if there are checkpoints.
        let record = RunRecord::read(&folder).unwrap_or_default();
        if let Some(record) = record.as_ref().filter(|record| record.sweep) {
            return ResumedSweep::find(&request, folder, &record.options);
        }
        if !request.options.data.sweep.is_empty() {
            bail!(
                "--sweep begins several runs, and --resume continues the one in {}: leave one of them out",
                folder.display()
            );
        }
        let newest = match &checkpoint {
            Some(path) => SavedCheckpoint::read(path).with_context(|| place::no_checkpoint(path))?,
            None => place::newest_of(&folder)?,
        };
        let run = newest.run.with_context(|| {
            format!(
                "cannot resume from {}: it is damaged, or no checkpoint of this program",
                newest.path.display()
            )
        })?;
        let options = SavedOptions::of_checkpoint(&newest.path)?;
        let mut continued = continued(&request, &options, &folder)?;
        let is_finished = record.is_some_and(|record| record.state == RunState::Finished);
        if is_finished && checkpoint.is_none() && !trains_longer(&request.flags) {
            say_finished(&folder, newest.step);
        }
        continued.resumed = Some(Self { folder, checkpoint, newest: newest.path, run, options });
        Ok(continued)
    }

    /// The output folder: the run's own, unless the request names another.
    pub fn output_dir(&self, request: &Request) -> PathBuf {
        request.options.data.output_dir.clone().unwrap_or_else(|| self.folder.clone())
    }
}

/// The sweep to continue.
#[derive(Clone, Debug)]
pub struct ResumedSweep {
    /// Its folder.
    pub folder: PathBuf,
    /// The flags of the command line that continues it.
    pub given: Flags,
}

impl ResumedSweep {
    /// Whether the command line makes the runs longer, also those that are finished.
    pub fn trains_longer(&self) -> bool {
        trains_longer(&self.given)
    }

    /// The request to continue the sweep in `folder`, which began with `options`.
    fn find(request: &Request, folder: PathBuf, options: &SavedOptions) -> Result<Request> {
        let axes = options.sweep.as_slice();
        if axes.is_empty() {
            bail!(
                "an earlier version began the sweep in {}, without a record of its values: continue each of its runs{}",
                folder.display(),
                place::runs_below(&folder)
            );
        }
        let given = request.options.data.sweep.as_slice();
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
        let commits = place::folders_in(&folder).iter().find_map(|run| {
            let record = RunRecord::read(run).ok().flatten()?;
            record.options.commits
        });
        let options = SavedOptions { commits, ..options.clone() };
        let mut continued = continued(request, &options, &folder)?;
        continued.options.data.sweep = axes.to_vec();
        continued.sweep(&folder).unwrap_or_else(|error| error.exit());
        continued.resumed_sweep = Some(Self { folder, given: request.flags.clone() });
        Ok(continued)
    }
}

/// The request with the saved options of the run in `folder`, replaced by the request's own flags.
fn continued(request: &Request, options: &SavedOptions, folder: &Path) -> Result<Request> {
    let flags = options.flags_in(&std::env::current_dir()?);
    let given = &request.flags;
    let mut continued = request
        .continuing(&flags)
        .unwrap_or_else(|error| moved::gone_path(&error, given, options, folder).unwrap_or(error).exit());
    if let Some(error) = moved::gone_folder(&continued, given, options, folder) {
        error.exit();
    }
    // Without further flags, the command that began the run still reproduces it.
    if given.given_arguments().is_empty() {
        continued.command.clone_from(&options.command);
    }
    moved::pin(&mut continued, given, options);
    Ok(continued)
}

/// Whether flags of a command line make a run longer.
fn trains_longer(given: &Flags) -> bool {
    ["num-train-epochs", "max-steps"].iter().any(|flag| given.is_given(flag))
}

/// Tells the user about a finished run, unless its last checkpoints are gone, so that steps are left.
fn say_finished(folder: &Path, step: usize) {
    if place::saved_step(folder) == Some(step as u64) {
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

/// Whether two paths are the same existing folder.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
