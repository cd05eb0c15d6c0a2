//! The report of a run: `report.html`, a single file that needs no network; its curves, `loss.svg`; its first pictures in one image,
//! `captions.svg`; and a page that compares several runs.
//!
//! [`Report`] and [`Run`] have the data. [`write()`] and [`write_comparison`] write them to files, only in a
//! build with the feature `report`.

mod data;
mod history;
mod run;

#[cfg(not(feature = "report"))]
mod absent;
#[cfg(feature = "report")]
mod pages;
#[cfg(feature = "report")]
pub mod plot;

#[cfg(not(feature = "report"))]
pub(crate) use absent::today;
#[cfg(not(feature = "report"))]
pub use absent::{FILES, write, write_comparison};
pub use data::{Better, Example, Metric, Report};
pub use history::{History, LogEntry};
#[cfg(feature = "report")]
pub(crate) use pages::today;
#[cfg(feature = "report")]
pub use pages::{FILES, compare_html, strip_svg, write, write_comparison};
pub use run::{Run, compare_runs};
