use std::path::Path;

use anyhow::{Context as _, Result};
use minijinja::{context, value::Value};
use trainer_core::{LogEntry, TrainerState};

use super::page::{STYLE, environment, figure};
use super::{Better, Metric};
use crate::files;
use crate::plot::{Curve, History, lines_svg};
use crate::results::{self, Metrics};

/// A finished run, as it lies in its output folder.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the page calls it.
    pub name: String,
    /// Its learning curves.
    pub history: History,
    /// Its results.
    pub metrics: Metrics,
    /// Seconds that the training took, where the log says so.
    pub seconds: Option<f64>,
}

impl Run {
    /// Reads the run in the folder `dir`, which is what it is called too.
    ///
    /// # Errors
    /// If `trainer_state.json` or `metrics.json` is not there or broken.
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
        Ok(Self { name: dir.display().to_string(), history: results::history(&state), metrics, seconds })
    }

    /// The results that the page compares: those of the test split, the best validation loss, and the time.
    fn rows(&self) -> Vec<Metric> {
        let row = |key: &str, name: &str, adapter| Metric {
            key: key.to_owned(),
            name: name.to_owned(),
            base: None,
            adapter,
            better: Better::Lower,
        };
        let mut rows = self.metrics.rows();
        rows.push(row("eval_loss", "Best validation loss", self.history.best().map(|(_, loss)| loss)));
        rows.push(row("train_runtime", "Seconds of training", self.seconds));
        rows
    }
}

/// One page with the results and curves of several runs side by side; a single file that needs no network.
///
/// # Errors
/// Only if template or drawing fail, which is a mistake of this crate.
pub fn compare_html(runs: &[Run]) -> Result<String> {
    let columns: Vec<Vec<Metric>> = runs.iter().map(Run::rows).collect();
    let mut rows: Vec<Metric> = Vec::new();
    for metric in columns.iter().flatten() {
        if rows.iter().all(|row| row.key != metric.key) {
            rows.push(metric.clone());
        }
    }
    let find = |column: &[Metric], key: &str| column.iter().find(|metric| metric.key == key).cloned();
    // Runs of one model share its results; where they do not, no column can speak for all.
    let bases = runs.windows(2).all(|pair| pair[0].metrics.base == pair[1].metrics.base);
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let values: Vec<Option<f64>> =
                columns.iter().map(|column| find(column, &row.key)?.adapter).collect();
            let best = best(&values, row.better);
            let cells: Vec<Value> = values
                .iter()
                .map(|value| context! { value, best => best.is_some() && *value == best })
                .collect();
            context! { name => row.name.clone(), base => row.base, cells }
        })
        .collect();
    let mut environment = environment();
    // The name's ending turns escaping on.
    environment.add_template("compare.html", include_str!("compare.html.jinja"))?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    let figures = figures(runs)?;
    Ok(environment.get_template("compare.html")?.render(context! {
        names, rows, bases, figures, style => STYLE
    })?)
}

/// Writes the page to `path`.
///
/// # Errors
/// If it cannot be written.
pub fn write_comparison(runs: &[Run], path: &Path) -> Result<()> {
    files::replace(path, compare_html(runs)?.as_bytes())
}

/// The best of the values, where one way is better and there is more than one.
fn best(values: &[Option<f64>], better: Better) -> Option<f64> {
    let known: Vec<f64> = values.iter().copied().flatten().collect();
    if known.len() < 2 {
        return None;
    }
    match better {
        Better::Lower => known.into_iter().reduce(f64::min),
        Better::Higher => known.into_iter().reduce(f64::max),
        Better::Neither => None,
    }
}

fn figures(runs: &[Run]) -> Result<Vec<Value>> {
    let curves = |points: fn(&History) -> Vec<(f64, f64)>| -> Vec<Curve> {
        runs.iter().map(|run| Curve { name: run.name.clone(), points: points(&run.history) }).collect()
    };
    let all = [
        ("validation loss", curves(History::validation)),
        ("training loss", curves(|history| smoothed(&history.training()))),
    ];
    all.into_iter()
        .filter(|(_, curves)| curves.iter().any(|curve| !curve.points.is_empty()))
        .map(|(name, curves)| figure(name, [(960, 400), (360, 300)], |style| lines_svg(name, &curves, style)))
        .collect()
}

/// Some fifty means of neighbours, so that several runs can be told apart.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let sum: f64 = chunk.iter().map(|(_, loss)| loss).sum();
        chunk.last().map(|(epoch, _)| (*epoch, sum / chunk.len() as f64))
    };
    points.chunks(points.len().div_ceil(50).max(1)).filter_map(mean).collect()
}
