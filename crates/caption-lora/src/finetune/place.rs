//! Chooses the output folder, and explains why others cannot be used.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use trainer_core::SavedCheckpoint;

use crate::options::DataOptions;
use crate::run_folder::{self, FolderLock, Locked, RunRecord, RunState};
use crate::terminal::say;

/// Creates a folder and locks it. `resumes` is whether it is for the run that is in it already.
pub(super) fn locked(path: PathBuf, resumes: bool) -> Result<(PathBuf, FolderLock)> {
    match FolderLock::create(&path)? {
        Locked::Here(lock) => Ok((path, lock)),
        Locked::Elsewhere(pid) => {
            let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            let shown = path.display();
            if resumes {
                bail!("another run{pid} is writing to {shown}: wait for it, or stop it");
            }
            bail!("another run{pid} is writing to {shown}: choose another --output-dir")
        }
    }
}

/// The folder of a new run or sweep: the named one. Without a name it is the first free default folder, or with
/// `--overwrite-output-dir` the first one.
pub(super) fn for_new(data: &DataOptions) -> Result<(PathBuf, FolderLock)> {
    match &data.output_dir {
        Some(dir) => locked(dir.clone(), false),
        None if data.overwrite_output_dir => locked(run_folder::DEFAULT.into(), false),
        None => first_free(),
    }
}

/// The first free default folder. Prints what is in the one before it, so that the user does not look for the
/// results there.
fn first_free() -> Result<(PathBuf, FolderLock)> {
    let mut before = None;
    for path in run_folder::defaults() {
        if run_folder::is_free(&path) {
            // Another run may have taken it in the meantime.
            if let Locked::Here(lock) = FolderLock::create(&path)?
                && run_folder::is_free(&path)
            {
                if let Some(before) = before {
                    say(format_args!(
                        "note: {}, so this run is written to {}\n",
                        in_words(before),
                        path.display()
                    ));
                }
                return Ok((path, lock));
            }
        }
        before = Some(path);
    }
    bail!("every default output folder is taken; choose one with --output-dir")
}

/// Describes the contents of a folder that is not free.
fn in_words(path: PathBuf) -> String {
    let shown = path.display();
    match RunRecord::read(&path) {
        Ok(Some(record)) if record.state == RunState::Finished => format!("{shown} holds a finished run"),
        Ok(Some(_)) if matches!(FolderLock::acquire(&path), Ok(Locked::Elsewhere(_))) => {
            format!("another run is writing to {shown}")
        }
        Ok(Some(_)) => format!("{shown} holds a run that was stopped (--resume {shown} continues it)"),
        _ => format!("there are files in {shown}"),
    }
}

/// Why a new run cannot use the folder of another run, and what to do.
pub(super) fn earlier_run(path: &Path, record: &RunRecord) -> String {
    let shown = path.display();
    let what = if record.sweep { "sweep" } else { "run" };
    if record.state == RunState::Finished {
        return format!(
            "{shown} holds a finished {what}: choose another --output-dir, or replace it with --overwrite-output-dir"
        );
    }
    let newest =
        SavedCheckpoint::list(path).ok().and_then(|saved| saved.into_iter().map(|saved| saved.step).max());
    let after = newest.map(|step| format!(" after step {step}")).unwrap_or_default();
    let resume = match (record.sweep, newest) {
        (true, _) | (false, Some(_)) => format!("continue it with --resume {shown}"),
        (false, None) => "choose another --output-dir".to_owned(),
    };
    format!(
        "{shown} holds a {what} that was stopped{after}: {resume}, or replace it with --overwrite-output-dir"
    )
}

/// Checks that all checkpoints in a folder are those of the run with this name, or damaged.
pub(super) fn require_own_checkpoints(path: &Path, run: Option<&str>) -> Result<()> {
    let mut saved = SavedCheckpoint::list(path)?;
    saved.sort_by_key(|checkpoint| checkpoint.step);
    let is_foreign = |saved: &&SavedCheckpoint| match &saved.run {
        Some(by) => Some(by.name.as_str()) != run,
        None => run.is_none(),
    };
    let foreign: Vec<String> = saved
        .iter()
        .filter(is_foreign)
        .map(|saved| saved.path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    bail!(
        "{} contains checkpoints that are not of this run: {}; move them away, or choose another --output-dir",
        path.display(),
        foreign.join(", ")
    )
}
