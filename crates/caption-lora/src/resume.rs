//! Finds the run that `--resume` continues, and its options.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use clap::error::{ContextKind, Error, ErrorKind};
use serde_json::Value;
use trainer_core::{Identity, SavedCheckpoint, SavedRun};

use crate::cli::{Finetune, Flags, Request, Resume};
use crate::hub::Location;
use crate::run_folder::{self, RunRecord, RunState, SavedOptions};

/// The working directory.
const HERE: &str = ".";
/// Files of every complete checkpoint, whatever its folder is called.
const COMPLETE: [&str; 2] = ["complete.json", "engine_state.json"];

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
        let mut continued = request
            .continuing(&flags)
            .unwrap_or_else(|error| moved(&error, &request.flags, &options, &folder).unwrap_or(error).exit());
        // Without further flags, the command that began the run still reproduces it.
        if request.flags.given_arguments().is_empty() {
            continued.command.clone_from(&options.command);
        }
        pin(&mut continued, &request.flags, &options, &run);
        continued.resumed = Some(Self { folder, checkpoint, newest: newest.path, run, options });
        Ok(continued)
    }

    /// The output folder: the run's own, unless the request names another.
    pub fn output_dir(&self, request: &Request) -> PathBuf {
        request.options.data.output_dir.clone().unwrap_or_else(|| self.folder.clone())
    }
}

/// The error for a model or a dataset of the run that is no longer where it was, with the flag for its new
/// place. `given` are the flags of the command line.
fn moved(error: &Error, given: &Flags, options: &SavedOptions, folder: &Path) -> Option<Error> {
    let argument = error.get(ContextKind::InvalidArg)?.to_string();
    let flag = argument.split(' ').next()?.trim_start_matches('-');
    let is_meant = |name: &&str| *name == flag;
    let name = ["dataset", "model"].into_iter().find(is_meant).filter(|name| !given.is_given(name))?;
    let place = options.directory.join(options.flags.value(name)?);
    let message = format!(
        "the run in {} was begun with --{name} {}, which is not there any more: give --{name} and \
         its new place",
        folder.display(),
        place.display()
    );
    (!place.exists()).then(|| Finetune::command().error(ErrorKind::ValueValidation, message))
}

/// Makes the model and the dataset those of the hub's commits that the run recorded, since `main` may have
/// moved. A location with a revision, or one that is `given` anew, stays as it is.
fn pin(continued: &mut Request, given: &Flags, options: &SavedOptions, run: &SavedRun) {
    let data = &mut continued.options.data;
    if let Location::Hub(id) = &mut data.model
        && id.revision.is_none()
        && !given.is_given("model")
    {
        id.revision = options.model_commit(&id.name);
    }
    if let Location::Hub(id) = &mut data.dataset
        && id.revision.is_none()
        && !given.is_given("dataset")
    {
        id.revision = run.identity.as_ref().and_then(|identity| dataset_commit(identity, &id.name));
    }
}

/// The commit of the hub's dataset `name` in a run's identity, whose entry for the dataset is a path in the
/// cache: `datasets--OWNER--NAME/snapshots/COMMIT`.
fn dataset_commit(identity: &Identity, name: &str) -> Option<String> {
    // Compared to nothing, every entry of the identity is a difference.
    let entries = identity.differences(&Identity::new());
    let path = entries.into_iter().find(|entry| entry.key == "--dataset")?.saved?;
    let folder = format!("datasets--{}", name.replace('/', "--"));
    let mut parts = path.split(['/', '\\']).skip_while(|part| *part != folder).skip(1);
    let rest = parts.next().filter(|part| *part == "snapshots").and_then(|_| parts.next())?;
    // The path of a folder may be followed by the number of its rows.
    let commit: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
    (!commit.is_empty()).then_some(commit)
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
    let folder = match output_dir {
        Some(dir) => dir.to_owned(),
        None => {
            let with_it = |folder: &PathBuf| folder.join(path).is_dir();
            let here = || has_checkpoints(Path::new(HERE)).then(|| PathBuf::from(HERE));
            let runs = default_runs();
            let found = runs.iter().find(|folder| with_it(folder)).cloned().or_else(here);
            found.or_else(|| runs.first().cloned()).with_context(|| {
                format!(
                    "--resume {}: there is no such folder here, and no run with checkpoints in {}",
                    path.display(),
                    run_folder::DEFAULT
                )
            })?
        }
    };
    let checkpoint = folder.join(path);
    if !checkpoint.is_dir() {
        bail!("--resume {}: there is no such folder; {}", path.display(), list(&folder));
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
    if COMPLETE.iter().all(|name| folder.join(name).is_file()) {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if is_saved(&real) {
            bail!("{} is a checkpoint: resume from it with --resume {}", folder.display(), real.display());
        }
        let step = saved_step(folder).map_or("N, the number of its step".to_owned(), |step| step.to_string());
        bail!(
            "{} is a checkpoint under another name: to resume from it, call the folder checkpoint-{step} again",
            folder.display()
        );
    }
    if let Some(parent) = folder.parent().filter(|parent| has_checkpoints(parent)) {
        bail!(
            "{} is a folder inside a run: resume the run with --resume {}",
            folder.display(),
            parent.display()
        );
    }
    if let Some(parent) = folder.parent().filter(|parent| is_saved(parent)) {
        bail!(
            "{} is a folder inside a checkpoint: resume from the checkpoint with --resume {}",
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

/// Whether a folder is a checkpoint of this program, by its name and its files.
fn is_saved(path: &Path) -> bool {
    SavedCheckpoint::read(path).is_some_and(|checkpoint| checkpoint.run.is_some())
}

/// The step of a checkpoint, whatever its folder is called.
fn saved_step(folder: &Path) -> Option<u64> {
    let state = std::fs::read(folder.join("trainer_state.json")).ok()?;
    serde_json::from_slice::<Value>(&state).ok()?["global_step"].as_u64()
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
    let shown = match folder == Path::new(HERE) {
        true => "this folder".to_owned(),
        false => folder.display().to_string(),
    };
    match names.is_empty() {
        true => format!("{shown} has no checkpoints"),
        false => format!("{shown} has {}", names.join(", ")),
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

/// The run for `--resume` alone: that of the working directory if it is a run's folder, else the newest of
/// the default folders.
fn newest_default() -> Result<PathBuf> {
    if RunRecord::read(Path::new(HERE)).is_ok_and(|record| record.is_some()) {
        return Ok(HERE.into());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_of_a_dataset_is_in_its_path() {
        let identity = |path: &str| Identity::new().with_content("--dataset", path, "5f3a");
        let of = |path: &str| dataset_commit(&identity(path), "a/d-x");
        for path in [
            "/hf/hub/datasets--a--d-x/snapshots/0f3c/data/train-00000-of-00001.parquet and 2 more",
            "/hf/hub/datasets--a--d-x/snapshots/0f3c",
            "/hf/hub/datasets--a--d-x/snapshots/0f3c (12 of 20 rows)",
            "/hf/hub/datasets--a--d-x/snapshots/0f3c, 20 rows by picture",
            r"C:\hf\datasets--a--d-x\snapshots\0f3c\train.parquet",
        ] {
            assert_eq!(of(path).as_deref(), Some("0f3c"), "{path}");
        }
        for path in ["embedded drawings", "/hf/hub/datasets--a--d/snapshots/0f3c", "/datasets--a--d-x/0f3c"] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(dataset_commit(&Identity::new(), "a/d-x"), None);
    }
}
