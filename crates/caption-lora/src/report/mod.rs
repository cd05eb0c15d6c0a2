//! The report of a run, `report.html`, a single file that needs no network; its first pictures in one image,
//! `captions.svg`; and a page that compares several runs.
//!
//! The page is a template (report.html.jinja) that shows a [`Report`]. Everything that comes from a dataset
//! or a command line is escaped.

mod compare;
mod filters;
mod meaning;
mod page;
mod strip;

pub use compare::{Run, compare_html, compare_runs, write_comparison};
pub use page::{Better, Example, Metric, Report};
pub use strip::strip_svg;
