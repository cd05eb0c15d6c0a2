//! Finds a run and its checkpoints from the value of `--resume`.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use trainer_core::SavedCheckpoint;

use super::folders::{HERE, folders_in, has_checkpoints, list, runs_below, saved_step};
use super::newest::{newest_default, newest_first};
use crate::run_folder::{self, RunRecord, RunState};

/// The parent of the default output folders.
const RUNS: &str = "runs";
/// Files of every complete checkpoint, whatever its folder is called.
const COMPLETE: [&str; 2] = ["complete.json", "engine_state.json"];

/// The run to continue. As text: `latest`, or a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The one in the output folder, else the one in the working folder, else the newest in the default folders; from its newest
    /// checkpoint.
    Latest,
    /// The one in this folder, or the one with this checkpoint.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "latest" { Self::Latest } else { Self::From(text.into()) })
    }
}

/// The folder of a run or a sweep to continue.
#[derive(Debug, Clone)]
pub struct RunPlace {
    /// The folder.
    pub folder: PathBuf,
    /// The checkpoint that was named; `None` for the newest undamaged one.
    pub checkpoint: Option<PathBuf>,
    /// The record in the folder, if it can be read.
    pub record: Option<RunRecord>,
}

impl RunPlace {
    /// Finds the folder.
    ///
    /// # Errors
    /// If there is no such folder; the message describes what is there instead.
    pub fn find(resume: &Resume, output_dir: Option<&Path>) -> Result<Self> {
        let (folder, checkpoint) = match resume {
            Resume::Latest => (output_dir.map_or_else(newest_default, |dir| Ok(dir.to_owned()))?, None),
            Resume::From(path) => place(path, output_dir)?,
        };
        // The record may be unreadable, if there are checkpoints.
        let record = RunRecord::read(&folder).unwrap_or_default();
        Ok(Self { folder, checkpoint, record })
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
            _ => PathBuf::from(HERE),
        };
        return Ok((folder, Some(path)));
    }
    if path.is_file() {
        let mut above = path.ancestors().skip(1).take(2).filter(|dir| !dir.as_os_str().is_empty());
        let meant = above.find(|dir| is_saved(dir) || has_checkpoints(dir));
        let meant = meant.map_or("DIR, the folder of a run or of a checkpoint".to_owned(), |dir| {
            dir.display().to_string()
        });
        bail!("--resume {} is a file: give --resume {meant}", path.display());
    }
    if !is_checkpoint(path) || path.components().count() > 1 {
        let parent = path.parent().filter(|parent| has_checkpoints(parent));
        let there = parent.map(|parent| format!("; {}", list(parent))).unwrap_or_default();
        bail!("--resume {}: there is no such folder{there}", path.display());
    }
    let folder = output_dir.map_or_else(|| run_with(path), |dir| Ok(dir.to_owned()))?;
    let checkpoint = folder.join(path);
    if !checkpoint.is_dir() {
        bail!("--resume {}: there is no such folder; {}", path.display(), list(&folder));
    }
    Ok((folder, Some(checkpoint)))
}

/// The default folder with a checkpoint of this name; else the working directory or the newest default folder
/// if it has checkpoints at all.
fn run_with(checkpoint: &Path) -> Result<PathBuf> {
    let runs: Vec<PathBuf> = newest_first().into_iter().filter(|run| has_checkpoints(run)).collect();
    if let Some(run) = runs.iter().find(|run| run.join(checkpoint).is_dir()) {
        return Ok(run.clone());
    }
    if has_checkpoints(Path::new(HERE)) {
        return Ok(HERE.into());
    }
    let elsewhere = [HERE, RUNS].into_iter().flat_map(|folder| folders_in(Path::new(folder)));
    let mut elsewhere: Vec<PathBuf> =
        elsewhere.map(|run| run.join(checkpoint)).filter(|path| is_saved(path)).collect();
    elsewhere.sort();
    if !elsewhere.is_empty() {
        let meant: Vec<String> =
            elsewhere.iter().map(|path| format!("--resume {}", path.display())).collect();
        bail!("--resume {}: there is no such folder here; give {}", checkpoint.display(), meant.join(" or "));
    }
    runs.into_iter().next().with_context(|| {
        format!(
            "--resume {0}: there is no such folder here, and no run with checkpoints in {1}: give its whole path, such as \
             --resume {1}/{0}",
            checkpoint.display(),
            run_folder::DEFAULT
        )
    })
}

/// The newest readable checkpoint in a run's folder.
pub(super) fn newest_of(folder: &Path) -> Result<SavedCheckpoint> {
    let checkpoints = SavedCheckpoint::list(folder)?;
    if let Some(newest) = checkpoints.iter().find(|checkpoint| checkpoint.run.is_some()) {
        return Ok(newest.clone());
    }
    let shown = folder.display();
    if !checkpoints.is_empty() {
        bail!("cannot resume the run in {shown}: its checkpoints are damaged, or of another program");
    }
    if !folder.is_dir() {
        bail!("cannot resume the run in {shown}: there is no such folder");
    }
    if COMPLETE.iter().all(|name| folder.join(name).is_file()) {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if is_saved(&real) {
            bail!("{shown} is a checkpoint: resume from it with --resume {}", real.display());
        }
        let step = saved_step(folder).map_or("N, the number of its step".to_owned(), |step| step.to_string());
        bail!(
            "{shown} is a checkpoint under another name: to resume from it, call the folder checkpoint-{step} again"
        );
    }
    if let Some(parent) = folder.parent().filter(|parent| has_checkpoints(parent)) {
        bail!("{shown} is a folder inside a run: resume the run with --resume {}", parent.display());
    }
    if let Some(parent) = folder.parent().filter(|parent| is_saved(parent)) {
        bail!(
            "{shown} is a folder inside a checkpoint: resume from the checkpoint with --resume {}",
            parent.display()
        );
    }
    bail!("{}", without_checkpoints(folder))
}

/// Why the run in a folder without checkpoints cannot be resumed, and what to do.
fn without_checkpoints(folder: &Path) -> String {
    let shown = folder.display();
    match RunRecord::read(folder) {
        Ok(Some(record)) if record.state == RunState::Finished => {
            let adapter = folder.join("adapter");
            let advice = if adapter.is_dir() {
                format!("; --init-adapter {} begins a new run with its adapter", adapter.display())
            } else {
                String::new()
            };
            format!(
                "the run in {shown} is finished and saved no checkpoint to continue from: --save-strategy and \
                 --eval-strategy say when checkpoints are saved{advice}"
            )
        }
        Ok(Some(record)) => format!(
            "the run in {shown} was stopped before its first checkpoint: start it again with --overwrite-output-dir; it was \
             begun with: {}",
            record.options.command
        ),
        Ok(None) => {
            let runs = runs_below(folder);
            let advice = if runs.is_empty() {
                "; give --resume the folder of a run or of a checkpoint, or begin a new run without --resume"
                    .to_owned()
            } else {
                format!("; continue one of the runs in it{runs}")
            };
            format!("there is no run to resume in {shown}: it has no checkpoint-N{advice}")
        }
        Err(_) => format!(
            "the run in {shown} cannot be resumed: it has no checkpoint-N, and its {} is damaged; begin it again with another \
             --output-dir",
            run_folder::RECORD
        ),
    }
}

pub(super) fn no_checkpoint(path: &Path) -> String {
    format!("{} is not named as checkpoints are: checkpoint-N", path.display())
}

/// Whether a folder is a checkpoint of this program, by its name and its files.
fn is_saved(path: &Path) -> bool {
    SavedCheckpoint::read(path).is_some_and(|checkpoint| checkpoint.run.is_some())
}
