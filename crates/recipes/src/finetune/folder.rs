use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use trainer_core::SavedCheckpoint;

use crate::cli::{Finetune, Request};
use crate::hub::Location;
use crate::results;
use crate::run_folder::{self, FolderLock, Locked, RunRecord, RunState, SavedOptions};
use crate::terminal::say;

/// The folder of a run's results: locked, found writable, and without anybody else's files in the places of its own, before
/// any long work. Clones are of the same folder.
#[derive(Clone, Debug)]
pub struct OutputFolder {
    /// Its path.
    pub path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// What the folder says of the run that is or was in it.
    record: Mutex<Option<RunRecord>>,
    /// Whether this run replaces that run.
    replaces: bool,
    lock: FolderLock,
}

impl OutputFolder {
    /// Makes the folder, locks it, and makes sure that the run may write to it. Without `--output-dir` it is the first default
    /// folder that is free, or that of the run that is resumed.
    ///
    /// # Errors
    /// If another run is in the folder; if something in it that no run wrote has a name that the run would write to; if an input
    /// of the run is among the files that the run would remove; if the folder cannot be written to.
    pub fn claim(request: &Request) -> Result<Self> {
        let options = &request.options;
        let (path, lock) = match (&request.resumed, &options.data.output_dir) {
            (Some(resumed), _) => locked(resumed.output_dir(request))?,
            (None, Some(dir)) => locked(dir.clone())?,
            (None, None) if options.data.overwrite_output_dir => locked(run_folder::DEFAULT.into())?,
            (None, None) => first_free()?,
        };
        let names = [results::log_names(options), results::result_names(options)].concat();
        let continues = request.resumed.as_ref().map(|resumed| resumed.run.name.as_str());
        let folder = Self::checked(path, lock, options, &names, continues, false)?;
        folder.refuse_own_inputs(options)?;
        Ok(folder)
    }

    /// The folder of a sweep, as [`claim`](Self::claim) has that of a run.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_for_sweep(options: &Finetune) -> Result<Self> {
        let (path, lock) = match &options.data.output_dir {
            Some(dir) => locked(dir.clone())?,
            None if options.data.overwrite_output_dir => locked(run_folder::DEFAULT.into())?,
            None => first_free()?,
        };
        Self::checked(path, lock, options, &["compare.html"], None, true)
    }

    fn checked(
        path: PathBuf,
        lock: FolderLock,
        options: &Finetune,
        names: &[&str],
        continues: Option<&str>,
        sweep: bool,
    ) -> Result<Self> {
        let record = RunRecord::read(&path)?;
        let is_own = record.as_ref().is_some_and(|record| continues == Some(record.run.as_str()));
        let overwrite = options.data.overwrite_output_dir;
        if let Some(record) = &record
            && !is_own
            && !overwrite
        {
            bail!("{}", earlier_run(&path, record));
        }
        if let Some(record) = record.as_ref().filter(|record| record.sweep != sweep) {
            let what = if record.sweep {
                "a sweep, which no single run replaces"
            } else {
                "a run, which no sweep replaces"
            };
            bail!("{} has {what}: choose another --output-dir", path.display());
        }
        let foreign = RunRecord::foreign(record.as_ref(), &path, names);
        if !foreign.is_empty() {
            bail!(
                "{} has files of the names that this run writes, and no run wrote them: {}; move them away, or choose another \
                 --output-dir",
                path.display(),
                foreign.join(", ")
            );
        }
        // Before the features are computed; the engine looks again when training begins.
        let run = record.as_ref().map(|record| record.run.as_str());
        require_own_checkpoints(&path, if overwrite { run } else { continues })?;
        let shared = Shared { record: Mutex::new(record), replaces: !is_own, lock };
        Ok(Self { path, shared: Arc::new(shared) })
    }

    /// Refuses to remove what the run reads.
    fn refuse_own_inputs(&self, options: &Finetune) -> Result<()> {
        let local = |location: &Location| match location {
            Location::Local(path) => Some(path.clone()),
            _ => None,
        };
        let record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = record.as_ref().filter(|_| self.shared.replaces) else { return Ok(()) };
        for (flag, path) in [
            ("--init-adapter", options.lora.init_adapter.clone()),
            ("--model", local(&options.data.model)),
            ("--dataset", local(&options.data.dataset)),
        ] {
            if let Some(path) = path
                && record.removes(&self.path, &path)
            {
                bail!(
                    "{flag} {} is of the run in the output folder, which --overwrite-output-dir removes: choose another \
                     --output-dir",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// Has the folder be that of a run: removes the files of the run that was in it, unless it is the same run, and records
    /// the run of this name, which will write `names` first.
    ///
    /// # Errors
    /// If a file cannot be removed, or the record not written.
    pub fn begin(&self, run: &str, options: &SavedOptions, sweep: bool, names: &[&str]) -> Result<()> {
        let mut shared = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = match shared.take() {
            Some(earlier) if !self.shared.replaces => earlier,
            earlier => {
                earlier.map_or(Ok(()), |earlier| earlier.remove_files(&self.path))?;
                let (run, options) = (run.to_owned(), options.clone());
                RunRecord { run, state: RunState::Running, options, sweep, files: Default::default() }
            }
        };
        (record.state, record.options) = (RunState::Running, options.clone());
        names.iter().for_each(|name| record.add(&self.path, name));
        record.write(&self.path)?;
        self.shared.lock.stay();
        *shared = Some(record);
        Ok(())
    }

    /// Records names that the run is about to write, or files that it has just written to folders of these names.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn add(&self, names: &[&str]) -> Result<()> {
        self.change(|record| names.iter().for_each(|name| record.add(&self.path, name)))
    }

    /// Records how far the run is.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn set_state(&self, state: RunState) -> Result<()> {
        self.change(|record| record.state = state)
    }

    fn change(&self, change: impl FnOnce(&mut RunRecord)) -> Result<()> {
        let mut record = self.shared.record.lock().unwrap_or_else(PoisonError::into_inner);
        let record = record.as_mut().context("the run has not begun")?;
        change(record);
        record.write(&self.path)
    }
}

/// Makes a folder and locks it.
fn locked(path: PathBuf) -> Result<(PathBuf, FolderLock)> {
    std::fs::create_dir_all(&path).with_context(|| {
        format!("cannot make the output folder {}; choose another with --output-dir", path.display())
    })?;
    match FolderLock::acquire(&path)? {
        Locked::Here(lock) => Ok((path, lock)),
        Locked::Elsewhere(pid) => {
            let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!("another run{pid} is writing to {}: choose another --output-dir", path.display())
        }
    }
}

/// The first of the default folders that nothing is in. Says what is in the one before, so that nobody looks for the results
/// in the wrong place.
fn first_free() -> Result<(PathBuf, FolderLock)> {
    let mut before = None;
    for path in run_folder::defaults() {
        if run_folder::is_free(&path) {
            std::fs::create_dir_all(&path).with_context(|| {
                format!("cannot make the output folder {}; choose another with --output-dir", path.display())
            })?;
            // Another run may take it in this moment.
            if let Locked::Here(lock) = FolderLock::acquire(&path)?
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

/// What is in a folder that is not free.
fn in_words(path: PathBuf) -> String {
    let shown = path.display();
    match RunRecord::read(&path) {
        Ok(Some(record)) if record.state == RunState::Finished => format!("{shown} has a finished run"),
        Ok(Some(_)) if matches!(FolderLock::acquire(&path), Ok(Locked::Elsewhere(_))) => {
            format!("another run is writing to {shown}")
        }
        Ok(Some(_)) => format!("{shown} has a run that was stopped (--resume {shown} continues it)"),
        _ => format!("there are files in {shown}"),
    }
}

/// Why a new run cannot have the folder of another, and what can be done.
fn earlier_run(path: &Path, record: &RunRecord) -> String {
    let shown = path.display();
    let what = if record.sweep { "sweep" } else { "run" };
    if record.state == RunState::Finished {
        return format!(
            "{shown} has a finished {what}: choose another --output-dir, or replace it with --overwrite-output-dir"
        );
    }
    let newest =
        SavedCheckpoint::list(path).ok().and_then(|saved| saved.into_iter().map(|saved| saved.step).max());
    let after = newest.map(|step| format!(" after step {step}")).unwrap_or_default();
    let resume = match (record.sweep, newest) {
        (true, _) => "continue its runs with --resume and the folder of each".to_owned(),
        (false, Some(_)) => format!("continue it with --resume {shown}"),
        (false, None) => "choose another --output-dir".to_owned(),
    };
    format!(
        "{shown} has a {what} that was stopped{after}: {resume}, or replace it with --overwrite-output-dir"
    )
}

/// Makes sure that all checkpoints in a folder are of the run of this name, or damaged ones of it.
fn require_own_checkpoints(path: &Path, run: Option<&str>) -> Result<()> {
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
        "{} has checkpoints that are not of this run: {}; move them away, or choose another --output-dir",
        path.display(),
        foreign.join(", ")
    )
}
