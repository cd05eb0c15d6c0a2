use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use minijinja::{
    context,
    value::{Serde, Value},
};

use super::page::{NARROW, STYLE, environment, figure};
use crate::files;
use crate::report::plot::{Curve, Scale, lines_svg};
use crate::report::{Better, History, Metric, Run};

/// The mark of every page, which distinguishes it from other files.
const MARKS: [&str; 2] = ["<body class=\"compare", "<h2 id=\"results\">Results on the test split</h2>"];

/// One page with the results and curves of several runs side by side; a single file that needs no network.
///
/// # Errors
/// Only if the template or the plots fail, which is a bug in this crate.
pub fn compare_html(runs: &[Run]) -> Result<String> {
    let columns: Vec<Vec<Metric>> = runs.iter().map(rows).collect();
    let mut rows: Vec<Metric> = Vec::new();
    for metric in columns.iter().flatten() {
        if rows.iter().all(|row| row.key != metric.key) {
            rows.push(metric.clone());
        }
    }
    let find = |column: &[Metric], key: &str| column.iter().find(|metric| metric.key == key).cloned();
    // If all runs have the same base model, its results have a separate column.
    let bases = runs.windows(2).all(|pair| are_close(&pair[0].metrics.base, &pair[1].metrics.base));
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
            context! { key => row.key.clone(), name => row.name.clone(), better => Value::from(Serde(row.better)), base => row.base, cells }
        })
        .collect();
    let mut environment = environment();
    // The template engine escapes HTML in files with this extension.
    environment.add_template("compare.html", include_str!("compare.html.jinja"))?;
    let (folder, names) = names(runs);
    let figures = figures(runs, &names)?;
    Ok(environment.get_template("compare.html")?.render(context! {
        folder, names, rows, bases, figures, captions => captions(runs), style => STYLE
    })?)
}

/// The results that the page compares: those of the test split, the best validation loss, and the
/// training time.
fn rows(run: &Run) -> Vec<Metric> {
    let row = |key: &str, name: &str, adapter| Metric {
        key: key.to_owned(),
        name: name.to_owned(),
        base: None,
        adapter,
        better: Better::Lower,
    };
    let mut rows = run.metrics.rows();
    rows.push(row("eval_loss", "Best validation loss", run.history.best().map(|(_, loss)| loss)));
    rows.push(row("train_runtime", "Time of training", run.seconds));
    rows
}

/// The captions of the pictures that all runs have captioned: how many pictures these are, and those whose captions are not all
/// the same.
fn captions(runs: &[Run]) -> Value {
    let of_all = runs.first().into_iter().flat_map(|run| &run.captions).filter_map(|line| {
        let of_run = |run: &Run| {
            let same = run.captions.iter().find(|other| other.row == line.row)?;
            (same.shown() == line.shown()).then(|| same.adapter.clone())
        };
        Some((line, runs.iter().map(of_run).collect::<Option<Vec<String>>>()?))
    });
    let of_all: Vec<_> = of_all.collect();
    let differing: Vec<Value> = of_all
        .iter()
        .filter(|(_, said)| said.windows(2).any(|pair| pair[0] != pair[1]))
        .map(|(line, said)| context! { row => line.row, reference => line.shown(), said })
        .collect();
    context! { pictures => of_all.len(), differing }
}

/// Writes the page to `path`, where it may replace an earlier page, and no other file.
pub(super) fn write(runs: &[Run], path: &Path) -> Result<()> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            if !MARKS.iter().all(|mark| text.contains(mark)) {
                bail!(
                    "{} is not a page of compared runs, and is not replaced: move it away, or choose another --output",
                    path.display()
                );
            }
        }
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot replace {}; choose another --output", path.display()));
        }
    }
    files::replace(path, compare_html(runs)?.as_bytes())
}

/// The common folder of all runs, and the name of each below it, because columns are narrow.
fn names(runs: &[Run]) -> (String, Vec<String>) {
    let first = runs.first().map(|run| run.name.as_str()).unwrap_or_default();
    let folders = first.rmatch_indices('/').map(|(end, _)| &first[..=end]);
    let is_common =
        |folder: &&str| runs.iter().all(|run| run.name.len() > folder.len() && run.name.starts_with(*folder));
    let folder = folders.into_iter().find(is_common).unwrap_or_default();
    (folder.to_owned(), runs.iter().map(|run| run.name[folder.len()..].to_owned()).collect())
}

/// Whether two results are those of the same model. They need not be equal to the last bit.
fn are_close(a: &BTreeMap<String, Option<f64>>, b: &BTreeMap<String, Option<f64>>) -> bool {
    let close = |pair| match pair {
        (Some(a), Some(b)) => f64::abs(a - b) <= 1e-4 * f64::abs(a),
        (a, b) => a == b,
    };
    a.keys().eq(b.keys()) && a.values().copied().zip(b.values().copied()).all(close)
}

/// The best of the values, if there is a better direction and they are not all equal.
fn best(values: &[Option<f64>], better: Better) -> Option<f64> {
    let known: Vec<f64> = values.iter().copied().flatten().collect();
    if known.windows(2).all(|pair| pair[0] == pair[1]) {
        return None;
    }
    match better {
        Better::Lower => known.into_iter().reduce(f64::min),
        Better::Higher => known.into_iter().reduce(f64::max),
        Better::Neither => None,
    }
}

fn figures(runs: &[Run], names: &[String]) -> Result<Vec<Value>> {
    let curves = |points: fn(&History) -> Vec<(f64, f64)>| -> Vec<Curve> {
        let curve = |(run, name): (&Run, &String)| Curve { name: name.clone(), points: points(&run.history) };
        runs.iter().zip(names).map(curve).collect()
    };
    let all = [
        ("validation loss, nats per token", curves(History::validation)),
        ("training loss, nats per token", curves(|history| smoothed(&history.training()))),
    ];
    all.into_iter()
        .filter(|(_, curves)| curves.iter().any(|curve| !curve.points.is_empty()))
        .map(|(name, curves)| {
            figure([(960, 420), NARROW], |style| lines_svg(name, Scale::Log, &curves, style))
        })
        .collect()
}

/// Smooths a curve to about fifty points, so that several runs can be distinguished.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |chunk: &[(f64, f64)]| {
        let sum: f64 = chunk.iter().map(|(_, loss)| loss).sum();
        chunk.last().map(|(epoch, _)| (*epoch, sum / chunk.len() as f64))
    };
    points.chunks(points.len().div_ceil(50).max(1)).filter_map(mean).collect()
}
