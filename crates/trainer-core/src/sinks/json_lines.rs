use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use crate::{BoxError, Error, Event, EventSink, Result};

/// Writes one JSON object a line for every event but [`Event::Step`], whose numbers come with [`Event::Log`].
///
/// A line is written at once and in one piece, so that the file can be followed and survives a crash.
#[derive(Debug)]
pub struct JsonLinesSink {
    file: File,
}

impl JsonLinesSink {
    /// Appends to the file at `path`, which is created, with its directory, where it does not exist: the events of a
    /// resumed run follow those of the run before it.
    pub fn append(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io("create the directory of"))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io("open"))?;
        Ok(Self { file })
    }
}

impl EventSink for JsonLinesSink {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        if matches!(event, Event::Step(_)) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        Ok(self.file.write_all(&line)?)
    }
}
