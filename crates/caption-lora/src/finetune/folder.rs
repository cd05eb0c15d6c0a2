use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::place::{earlier_run, first_free, locked, require_own_checkpoints};
use crate::cli::{Finetune, Request};
use crate::hub::Location;
use crate::results;
use crate::run_folder::{self, FolderLock, RunRecord, RunState, SavedOptions};

/// The folder of a run's results. Before any long work it is locked, checked to be writable, and checked for
/// files of others under the names that the run writes. Clones refer to the same folder.
#[derive(Clone, Debug)]
pub struct OutputFolder {
    /// Its path.
    pub path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The record of the run that is or was in the folder.
    record: Mutex<Option<RunRecord>>,
    /// Whether this run replaces that one.
    replaces: bool,
    lock: FolderLock,
}

impl OutputFolder {
    /// Creates and locks the folder, and checks that the run may write to it. Without `--output-dir` it is
    /// the first free default folder, or that of the resumed run.
    ///
    /// # Errors
    /// If another run is in the folder; if a file that no run wrote has a name that the run would write; if
    /// the run would remove one of its own inputs; if the folder cannot be written to.
    pub fn claim(request: &Request) -> Result<Self> {
        let options = &request.options;
        let (path, lock) = match (&request.resumed, &options.data.output_dir) {
            (Some(resumed), _) => {
                let dir = resumed.output_dir(request);
                let is_own = dir == resumed.folder;
                locked(dir, is_own)?
            }
            (None, Some(dir)) => locked(dir.clone(), false)?,
            (None, None) if options.data.overwrite_output_dir => locked(run_folder::DEFAULT.into(), false)?,
            (None, None) => first_free()?,
        };
        let names = [results::log_names(options), results::result_names(options)].concat();
        let continues = request.resumed.as_ref().map(|resumed| resumed.run.name.as_str());
        let folder = Self::checked(path, lock, options, &names, continues, false)?;
        folder.refuse_own_inputs(options)?;
        Ok(folder)
    }

    /// The folder of a sweep, as [`claim`](Self::claim) for a run.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_for_sweep(options: &Finetune) -> Result<Self> {
        let (path, lock) = match &options.data.output_dir {
            Some(dir) => locked(dir.clone(), false)?,
            None if options.data.overwrite_output_dir => locked(run_folder::DEFAULT.into(), false)?,
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
                "a sweep, and a single run cannot replace it"
            } else {
                "a run, and a sweep cannot replace it"
            };
            bail!("{} holds {what}: choose another --output-dir", path.display());
        }
        let foreign = RunRecord::foreign(record.as_ref(), &path, names);
        if !foreign.is_empty() {
            bail!(
                "{} contains files that this run would overwrite and that no run is recorded to have written: {}; move them \
                 away, or choose another --output-dir",
                path.display(),
                foreign.join(", ")
            );
        }
        // Checked before the features are computed; the engine checks again when training begins.
        let run = record.as_ref().map(|record| record.run.as_str());
        require_own_checkpoints(&path, if overwrite { run } else { continues })?;
        let shared = Shared { record: Mutex::new(record), replaces: !is_own, lock };
        Ok(Self { path, shared: Arc::new(shared) })
    }

    /// Refuses to remove inputs of this run.
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
                    "{flag} {} belongs to the run in the output folder, which --overwrite-output-dir removes: choose another \
                     --output-dir",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// Makes the folder that of the run with this name: removes the files of the previous run, unless it is
    /// the same one, and records the new run and the `names` that it will write first.
    ///
    /// # Errors
    /// If a file cannot be removed, or the record cannot be written.
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

    /// Records names that the run is about to write, or the files that it has just written to folders with
    /// these names.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn add(&self, names: &[&str]) -> Result<()> {
        self.change(|record| names.iter().for_each(|name| record.add(&self.path, name)))
    }

    /// Records the state of the run.
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
