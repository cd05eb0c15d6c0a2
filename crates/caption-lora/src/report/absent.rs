//! Replaces plots and pages in a build without the feature `report`.

use std::path::Path;

use anyhow::Result;

use super::{Report, Run};
use crate::terminal::say;

/// The files that [`write()`] writes: none.
pub const FILES: &[&str] = &[];

/// Prints that this build writes no report.
///
/// # Errors
/// None.
pub fn write(_report: impl FnOnce() -> Result<Report>, _dir: &Path) -> Result<bool> {
    say("\nnote: no report and no curves, as this program was built without the feature `report`");
    Ok(false)
}

/// Prints that this build writes no page.
///
/// # Errors
/// None.
pub fn write_comparison(_runs: &[Run], _path: &Path) -> Result<bool> {
    say("note: no page that compares the runs, as this program was built without the feature `report`");
    Ok(false)
}

/// The date is used only in the report.
pub(crate) fn today() -> String {
    String::new()
}
