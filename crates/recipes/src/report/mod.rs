//! A run on one page: `report.html`, a single file that needs no network; its first pictures in one: `captions.svg`; and
//! several runs on one page.
//!
//! The page is a template (report.html.jinja); what it shows is a [`Report`]. Whatever comes from a dataset or a command
//! line is escaped.

mod compare;
mod filters;
mod meaning;
mod page;
mod strip;

pub use compare::{Run, compare_html, write_comparison};
pub use page::{Better, Example, Metric, Report};
pub use strip::strip_svg;
