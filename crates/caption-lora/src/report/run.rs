use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use trainer_core::{LogEntry, TrainerState};

use super::{History, write_comparison};
use crate::options::Axis;
use crate::results::{self, CaptionLine, Metrics};
use crate::run_folder::{RunRecord, RunState};
use crate::terminal::{say, warn};

/// A finished run, read from its output folder.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name on the page.
    pub name: String,
    /// Its learning curves.
    pub history: History,
    /// Its results.
    pub metrics: Metrics,
    /// Its captions of the test pictures, if it has any.
    pub captions: Vec<CaptionLine>,
    /// Seconds of training, if the log has them.
    pub seconds: Option<f64>,
}

impl Run {
    /// Reads the run in the folder `dir`, whose name becomes the run's.
    ///
    /// # Errors
    /// If `trainer_state.json` or `metrics.json` is missing, or one of them or `captions.jsonl` cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).with_context(|| {
                format!("cannot read {}; is this the folder of a finished run?", path.display())
            })
        };
        let state: TrainerState = serde_json::from_str(&text("trainer_state.json")?)
            .with_context(|| format!("{}: trainer_state.json is broken", dir.display()))?;
        let metrics = serde_json::from_str(&text("metrics.json")?)
            .with_context(|| format!("{}: metrics.json is broken", dir.display()))?;
        let seconds = state.log_history.iter().rev().find_map(|entry| match entry {
            LogEntry::Summary { train_runtime, .. } => Some(*train_runtime),
            _ => None,
        });
        Ok(Self {
            name: dir.display().to_string(),
            history: results::history(&state),
            metrics,
            captions: results::read_captions(dir)?,
            seconds,
        })
    }

    /// Reads the run in the folder `dir`, or the finished runs of a sweep in their order. Also returns the
    /// folders of the sweep's other runs.
    ///
    /// # Errors
    /// As [`read`](Self::read), and if no run of a sweep is finished.
    pub fn read_all(dir: &Path) -> Result<(Vec<Self>, Vec<PathBuf>)> {
        // The folder of a run is read even if its record is damaged.
        let record = RunRecord::read(dir).unwrap_or_default();
        let Some(sweep) = record.filter(|record| record.sweep) else {
            return Ok((vec![Self::read(dir)?], Vec::new()));
        };
        let is_finished = |path: &PathBuf| {
            let record = RunRecord::read(path).unwrap_or_default();
            record.is_some_and(|record| record.state == RunState::Finished)
        };
        let (finished, others): (Vec<PathBuf>, Vec<PathBuf>) =
            folders(dir, &sweep.options.sweep).into_iter().partition(is_finished);
        if finished.is_empty() {
            bail!("no run of the sweep in {} is finished", dir.display());
        }
        let runs = finished.iter().map(|path| Self::read(path)).collect::<Result<Vec<_>>>()?;
        Ok((runs, others))
    }
}

/// Prints the results of the runs in some folders, each of a run or of a sweep, and compares them on one page.
/// Runs of a sweep that are not finished are left out with a warning.
///
/// # Errors
/// As [`Run::read_all`] and [`write_comparison`].
pub fn compare_runs(folders: &[PathBuf], page: &Path) -> Result<()> {
    let mut runs = Vec::new();
    for folder in folders {
        let (finished, others) = Run::read_all(folder)?;
        runs.extend(finished);
        for other in others {
            warn(format_args!("{} is left out, as it is not finished", other.display()));
        }
    }
    for run in &runs {
        say(format_args!("{}\n{}", run.name, run.metrics));
    }
    if write_comparison(&runs, page)? {
        say(format_args!("written to {}", page.display()));
    }
    Ok(())
}

/// The folders of a sweep's runs. An earlier version did not record the `axes`: they are sorted by name then.
fn folders(sweep: &Path, axes: &[Axis]) -> Vec<PathBuf> {
    if !axes.is_empty() {
        return Axis::folders(axes).iter().map(|name| sweep.join(name)).collect();
    }
    let entries = std::fs::read_dir(sweep).into_iter().flatten().flatten();
    let has_record = |path: &PathBuf| RunRecord::read(path).is_ok_and(|record| record.is_some());
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(has_record).collect();
    folders.sort();
    folders
}
