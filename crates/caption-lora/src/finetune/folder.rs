use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};

use super::Request;
use super::place::{earlier_run, for_new, locked, require_own_checkpoints};
use crate::hub::Location;
use crate::options::Finetune;
use crate::results;
use crate::resume::{Resumed, is_same};
use crate::run_folder::{FolderLock, RECORD, RunRecord, RunState, SavedOptions};
use crate::terminal::warn;

/// The page of a sweep, which compares its runs.
pub(super) const PAGE: &str = "compare.html";
/// The name of a sweep in its record.
const SWEEP: &str = "sweep";

/// The folder of a run's results. Before any long work it is locked and checked: it must be writable, and must
/// not have files of others under the names that the run writes. Clones refer to the same folder. If no run
/// begins, a folder that was created for it is removed again.
#[derive(Clone, Debug)]
pub struct OutputFolder {
    /// Its path.
    pub path: PathBuf,
    shared: Arc<Shared>,
    /// The sweep that the run is part of: its folder and its options.
    sweep: Option<Arc<(OutputFolder, SavedOptions)>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// `None` if another process of the job claimed the folder: it writes all files.
    lock: Option<FolderLock>,
}

/// The run in the folder.
#[derive(Debug)]
struct State {
    /// The record of the run that is or was in the folder.
    record: Option<RunRecord>,
    /// Whether the file of the record is damaged.
    is_damaged: bool,
    /// Whether the new run replaces the one in the folder.
    replaces: bool,
}

/// The kind of content of a folder.
struct Wanted<'a> {
    /// The names that will be written.
    names: &'a [&'a str],
    /// The name of the run that is continued there.
    continues: Option<&'a str>,
    /// Whether it is a sweep.
    sweep: bool,
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
        let resumed = request.resumed.as_ref();
        let (path, lock) = match resumed {
            Some(resumed) => {
                let dir = resumed.output_dir(options.data.output_dir.as_deref());
                let is_own = dir == resumed.folder;
                locked(dir, is_own)?
            }
            None => for_new(&options.data)?,
        };
        let names = [results::log_names(options), results::result_names(options)].concat();
        let (record, is_damaged) = record(&path, resumed, &names)?;
        let continues = resumed.map(|resumed| resumed.run.name.as_str());
        let wanted = Wanted { names: &names, continues, sweep: false };
        let folder = Self::checked(path, lock, options, &wanted, record, is_damaged)?;
        folder.refuse_own_inputs(options)?;
        Ok(folder)
    }

    /// The folder of a sweep, as [`claim`](Self::claim) for a run.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn claim_for_sweep(request: &Request) -> Result<Self> {
        let resumed = request.resumed_sweep.as_ref();
        let (path, lock) = match resumed {
            Some(resumed) => locked(resumed.folder.clone(), true)?,
            None => for_new(&request.options.data)?,
        };
        let record = RunRecord::read(&path)?;
        let wanted = Wanted { names: &[PAGE], continues: resumed.map(|_| SWEEP), sweep: true };
        Self::checked(path, lock, &request.options, &wanted, record, false)
    }

    fn checked(
        path: PathBuf,
        lock: FolderLock,
        options: &Finetune,
        wanted: &Wanted<'_>,
        record: Option<RunRecord>,
        is_damaged: bool,
    ) -> Result<Self> {
        let is_own = record.as_ref().is_some_and(|record| wanted.continues == Some(record.run.as_str()));
        let overwrite = options.data.overwrite_output_dir;
        if let Some(record) = &record
            && !is_own
            && !overwrite
        {
            bail!("{}", earlier_run(&path, record));
        }
        if let Some(record) = record.as_ref().filter(|record| record.sweep != wanted.sweep) {
            let what = if record.sweep {
                "a sweep, and a single run cannot replace it"
            } else {
                "a run, and a sweep cannot replace it"
            };
            bail!("{} holds {what}: choose another --output-dir", path.display());
        }
        let foreign = RunRecord::foreign(record.as_ref(), &path, wanted.names);
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
        require_own_checkpoints(&path, if overwrite { run } else { wanted.continues })?;
        let state = Mutex::new(State { record, is_damaged, replaces: !is_own });
        Ok(Self { path, shared: Arc::new(Shared { state, lock: Some(lock) }), sweep: None })
    }

    /// The folder that another process of the job has claimed. Nothing is recorded in it by this one.
    pub(super) fn of_another_process(path: PathBuf) -> Self {
        let state = Mutex::new(State { record: None, is_damaged: false, replaces: false });
        Self { path, shared: Arc::new(Shared { state, lock: None }), sweep: None }
    }

    /// Makes this the folder of a run of a sweep. The sweep begins when the first of its runs does.
    #[must_use]
    pub(super) fn within(self, sweep: &Self, options: &SavedOptions) -> Self {
        Self { sweep: Some(Arc::new((sweep.clone(), options.clone()))), ..self }
    }

    /// Refuses to remove inputs of this run.
    fn refuse_own_inputs(&self, options: &Finetune) -> Result<()> {
        let local = |location: &Location| match location {
            Location::Local(path) => Some(path.clone()),
            _ => None,
        };
        let state = self.state();
        let Some(record) = state.record.as_ref().filter(|_| state.replaces) else { return Ok(()) };
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

    /// Assigns the folder to the run with this name: removes the files of the previous run, unless it is the
    /// same one, and records the new run and the `names` that it will write first.
    ///
    /// # Errors
    /// If a file cannot be removed, or the record cannot be written.
    pub fn begin(&self, run: &str, options: &SavedOptions, sweep: bool, names: &[&str]) -> Result<()> {
        let Some(lock) = &self.shared.lock else { return Ok(()) };
        if let Some(sweep) = &self.sweep {
            let (folder, options) = sweep.as_ref();
            folder.begin_sweep(options)?;
        }
        let mut state = self.state();
        let mut record = match state.record.take() {
            Some(earlier) if !state.replaces => earlier,
            earlier => {
                earlier.map_or(Ok(()), |earlier| earlier.remove_files(&self.path))?;
                let (run, options) = (run.to_owned(), options.clone());
                RunRecord { run, state: RunState::Running, options, sweep, files: Default::default() }
            }
        };
        if state.is_damaged {
            RunRecord::set_damaged_aside(&self.path)?;
        }
        (record.state, record.options) = (RunState::Running, options.clone());
        names.iter().for_each(|name| record.add(&self.path, name));
        record.write(&self.path)?;
        lock.stay();
        *state = State { record: Some(record), is_damaged: false, replaces: false };
        Ok(())
    }

    /// Assigns the folder to a sweep with these options. A second call only records that the sweep is running.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(super) fn begin_sweep(&self, options: &SavedOptions) -> Result<()> {
        self.begin(SWEEP, options, true, &[PAGE])
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
        if self.shared.lock.is_none() {
            return Ok(());
        }
        let mut state = self.state();
        let record = state.record.as_mut().context("the run has not begun")?;
        change(record);
        record.write(&self.path)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record in a folder, and whether its file is damaged. If the record of the resumed run is lost or
/// damaged, it is restored from the options in the run's checkpoint; files under the `names` of its results are
/// assumed to be the run's own.
fn record(path: &Path, resumed: Option<&Resumed>, names: &[&str]) -> Result<(Option<RunRecord>, bool)> {
    let resumed = resumed.filter(|resumed| is_same(&resumed.folder, path));
    let (is_damaged, resumed) = match (RunRecord::read(path), resumed) {
        (Ok(None), Some(resumed)) => (false, resumed),
        (Err(error), Some(resumed)) if error.is::<serde_json::Error>() => (true, resumed),
        (record, _) => return Ok((record?, false)),
    };
    warn(format_args!(
        "{} {}; it is written again with the options in {}",
        path.join(RECORD).display(),
        if is_damaged { "is damaged and will be kept as run.json.damaged" } else { "is missing" },
        resumed.newest.display()
    ));
    let recovered = RunRecord::recovered(path, &resumed.run.name, &resumed.options, names);
    Ok((Some(recovered), is_damaged))
}
