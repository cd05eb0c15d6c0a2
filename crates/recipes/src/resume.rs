//! Finds the run that `--resume` continues, and its options.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use trainer_core::{SavedCheckpoint, SavedRun};

use crate::cli::{Request, Resume};
use crate::run_folder::{self, RunRecord, RunState, SavedOptions};

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
    /// Finds the run that a request continues. The result has the options of that run, replaced by the flags
    /// in the request. A request without `--resume` is returned unchanged. A contradictory command line ends
    /// the process, as in clap.
    ///
    /// # Errors
    /// If there is no such run, or it cannot be read; the message describes what is there instead.
    pub fn find(request: Request) -> Result<Request> {
        let Some(resume) = &request.options.training.resume else { return Ok(request) };
        if !request.options.data.sweep.is_empty() {
            return Ok(request);
        }
        let output_dir = request.options.data.output_dir.as_deref();
        let (folder, checkpoint) = match resume {
            Resume::Latest => (output_dir.map_or_else(newest_default, |dir| Ok(dir.to_owned()))?, None),
            Resume::From(path) => place(path, output_dir)?,
        };
        let newest = match &checkpoint {
            Some(path) => SavedCheckpoint::read(path).with_context(|| no_checkpoint(path))?,
            None => newest_of(&folder)?,
        };
        let run = newest.run.with_context(|| {
            format!(
                "cannot resume from {}: it is damaged, or no checkpoint of this program",
                newest.path.display()
            )
        })?;
        let options = SavedOptions::of_checkpoint(&newest.path)?;
        let flags = options.flags_in(&std::env::current_dir()?);
        let mut continued = request.continuing(&flags).unwrap_or_else(|error| error.exit());
        // Without further flags, the command that began the run still reproduces it.
        if request.flags.given_arguments().is_empty() {
            continued.command.clone_from(&options.command);
        }
        continued.resumed = Some(Self { folder, checkpoint, newest: newest.path, run, options });
        Ok(continued)
    }

    /// The output folder: the run's own, unless the request names another.
    pub fn output_dir(&self, request: &Request) -> PathBuf {
        request.options.data.output_dir.clone().unwrap_or_else(|| self.folder.clone())
    }
}

/// The run's folder and the checkpoint for `--resume PATH`. `PATH` is a run's folder, a checkpoint, or the
/// name of a checkpoint in the output folder.
fn place(path: &Path, output_dir: Option<&Path>) -> Result<(PathBuf, Option<PathBuf>)> {
    let is_checkpoint = |path: &Path| SavedCheckpoint::read(path).is_some();
    if path.is_dir() {
        let path = path.components().collect::<PathBuf>();
        if !is_checkpoint(&path) {
            return Ok((path, None));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        return Ok((folder, Some(path)));
    }
    if !is_checkpoint(path) || path.components().count() > 1 {
        let parent = path.parent().filter(|parent| has_checkpoints(parent));
        let there = parent.map(|parent| format!("; {}", list(parent))).unwrap_or_default();
        bail!("--resume {}: there is no such folder{there}", path.display());
    }
    let folder = match output_dir {
        Some(dir) => dir.to_owned(),
        None => {
            let with_it = |folder: &PathBuf| folder.join(path).is_dir();
            default_runs().into_iter().find(with_it).map_or_else(newest_default, Ok)?
        }
    };
    let checkpoint = folder.join(path);
    if !checkpoint.is_dir() {
        bail!("--resume {}: {}", path.display(), list(&folder));
    }
    Ok((folder, Some(checkpoint)))
}

/// The newest readable checkpoint in a run's folder.
fn newest_of(folder: &Path) -> Result<SavedCheckpoint> {
    let checkpoints = SavedCheckpoint::list(folder)?;
    if let Some(newest) = checkpoints.iter().find(|checkpoint| checkpoint.run.is_some()) {
        return Ok(newest.clone());
    }
    if !checkpoints.is_empty() {
        bail!(
            "cannot resume the run in {}: its checkpoints are damaged, or of another program",
            folder.display()
        );
    }
    if !folder.is_dir() {
        bail!("cannot resume the run in {}: there is no such folder", folder.display());
    }
    if let Some(parent) = folder.parent().filter(|parent| has_checkpoints(parent)) {
        bail!(
            "{} is a folder inside a run: resume the run with --resume {}",
            folder.display(),
            parent.display()
        );
    }
    match RunRecord::read(folder)? {
        Some(record) if record.sweep => bail!(
            "{} is the folder of a sweep: continue one of its runs{}",
            folder.display(),
            sub_runs(folder)
        ),
        Some(record) if record.state == RunState::Finished => bail!(
            "the run in {} is finished and saved no checkpoint to continue from: --save-strategy and --eval-strategy say when \
             checkpoints are saved",
            folder.display()
        ),
        Some(_) => bail!(
            "the run in {} was stopped before its first checkpoint: start it again with --overwrite-output-dir",
            folder.display()
        ),
        None => bail!("there is no run to resume in {}: it has no checkpoint-N", folder.display()),
    }
}

fn no_checkpoint(path: &Path) -> String {
    format!("{} is not named as checkpoints are: checkpoint-N", path.display())
}

fn has_checkpoints(folder: &Path) -> bool {
    SavedCheckpoint::list(folder).is_ok_and(|checkpoints| !checkpoints.is_empty())
}

/// Lists the checkpoints of a folder in a clause.
fn list(folder: &Path) -> String {
    let mut steps: Vec<usize> =
        SavedCheckpoint::list(folder).unwrap_or_default().iter().map(|saved| saved.step).collect();
    steps.sort_unstable();
    let names: Vec<String> = steps.iter().map(|step| format!("checkpoint-{step}")).collect();
    match names.is_empty() {
        true => format!("{} has no checkpoints", folder.display()),
        false => format!("{} has {}", folder.display(), names.join(", ")),
    }
}

/// The runs of a sweep, as values of `--resume`.
fn sub_runs(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut runs: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| has_checkpoints(path)).collect();
    runs.sort();
    runs.iter().map(|run| format!(", --resume {}", run.display())).collect()
}

/// The default folders with checkpoints, the one with the newest first.
fn default_runs() -> Vec<PathBuf> {
    let saved_at = |folder: &PathBuf| {
        let checkpoints = SavedCheckpoint::list(folder).unwrap_or_default();
        checkpoints.iter().filter_map(|saved| Some(saved.run.as_ref()?.saved_at)).max()
    };
    let there = run_folder::defaults().take_while(|folder| folder.is_dir());
    let mut runs: Vec<(u64, PathBuf)> =
        there.filter_map(|folder| Some((saved_at(&folder)?, folder))).collect();
    runs.sort();
    runs.into_iter().rev().map(|(_, folder)| folder).collect()
}

fn newest_default() -> Result<PathBuf> {
    // A run without checkpoints cannot be resumed, but the error should name it.
    let begun = || {
        let there = run_folder::defaults().take_while(|folder| folder.is_dir());
        there.filter(|folder| folder.join(run_folder::RECORD).is_file()).last()
    };
    let newest = default_runs().into_iter().next().or_else(begun);
    newest.with_context(|| {
        format!(
            "there is no run to resume in {}: name one with --resume DIR, the folder of a run or of a checkpoint",
            run_folder::DEFAULT
        )
    })
}
