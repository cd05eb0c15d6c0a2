//! A run on one page: `report.html`, a single file that needs no network.
//!
//! The page is a template (report.html.jinja); what it shows is a [`Report`]. Whatever comes from a dataset or a command
//! line is escaped.

mod filters;
mod page;

pub use page::{Better, Example, Metric, Report};
