//! Sinks that ship with the engine: JSON lines, CSV, and, with cargo features, a console display and TensorBoard.

#[cfg(feature = "progress")]
mod console;
mod csv;
mod json_lines;
mod rewind;
mod scalars;
#[cfg(feature = "tensorboard")]
mod tensorboard;

#[cfg(feature = "progress")]
pub use console::ConsoleSink;
pub use csv::CsvSink;
pub use json_lines::JsonLinesSink;
#[cfg(feature = "tensorboard")]
pub use tensorboard::TensorBoardSink;
