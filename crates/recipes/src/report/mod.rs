//! A run on one page: `report.html`, a single file that needs no network. And its first pictures in one: `captions.svg`.
//!
//! The page is a template (report.html.jinja); what it shows is a [`Report`]. Whatever comes from a dataset or a command
//! line is escaped.

mod filters;
mod page;
mod strip;

pub use page::{Example, Metric, Report};
pub use strip::strip_svg;
