//! Where events go.

mod console;
mod json_lines;

pub use console::ConsoleSink;
pub use json_lines::JsonLinesSink;
