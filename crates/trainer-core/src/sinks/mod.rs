//! Where events go.

mod console;
mod csv;
mod json_lines;
mod rewind;
mod scalars;
mod tensorboard;

pub use console::ConsoleSink;
pub use csv::CsvSink;
pub use json_lines::JsonLinesSink;
pub use tensorboard::TensorBoardSink;
