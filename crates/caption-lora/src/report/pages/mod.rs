//! The pages as templates that show a [`Report`] or several [`Run`]s.
//!
//! Everything that comes from a dataset or a command line is escaped.

mod compare;
mod filters;
mod meaning;
mod page;
mod strip;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use chrono::DateTime;

use super::plot;
use super::{Report, Run};
use crate::files;

pub use compare::compare_html;
pub use strip::strip_svg;

/// The files that [`write()`] writes into a run's folder.
pub const FILES: &[&str] = &["loss.svg", "report.html", "captions.svg"];

/// Test pictures in `captions.svg`.
const STRIP: usize = 4;

/// Writes [`FILES`] to the folder `dir`; `captions.svg` only if there are test pictures. Returns whether it did: a build without
/// the feature `report` does not.
///
/// # Errors
/// The errors of `report`, which makes the content, and if a file cannot be written.
pub fn write(report: impl FnOnce() -> Result<Report>, dir: &Path) -> Result<bool> {
    let report = report()?;
    plot::write(&report.history, dir)?;
    report.write(&dir.join("report.html"))?;
    if !report.examples.is_empty() {
        let first = report.examples.get(..STRIP).unwrap_or(&report.examples);
        files::replace(&dir.join("captions.svg"), strip_svg(first)?.as_bytes())?;
    }
    Ok(true)
}

/// Writes the page that compares runs to `path`, where it may replace an earlier page, and no other file. Returns whether it did:
/// a build without the feature `report` does not.
///
/// # Errors
/// If there is another file, or the page cannot be written.
pub fn write_comparison(runs: &[Run], path: &Path) -> Result<bool> {
    compare::write(runs, path)?;
    Ok(true)
}

/// The date, in UTC: `2026-11-28`.
pub(crate) fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = DateTime::from_timestamp_secs(now.as_secs().cast_signed()).unwrap_or_default();
    now.date_naive().to_string()
}
