use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::rewind::rewind;
use crate::{BoxError, Error, Event, EventSink, Result};

/// Writes every event as one line of JSON, except [`Event::Step`], whose numbers are part of [`Event::Log`].
///
/// Each line is written immediately and in one piece, so the file can be followed during the run and survives a crash.
#[derive(Debug)]
pub struct JsonLinesSink {
    file: File,
}

impl JsonLinesSink {
    /// Opens the file at `path` to append to it, or creates it with its directory. When a run resumes, lines after its
    /// checkpoint are removed, because the run writes them again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io("create the directory of"))?;
        }
        let file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io("open"))?;
        Ok(Self { file })
    }
}

impl EventSink for JsonLinesSink {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        match event {
            Event::Step(_) => return Ok(()),
            Event::Resumed { global_step, .. } => {
                rewind(&mut self.file, |line| is_later(line, *global_step))?;
            }
            _ => {}
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        Ok(self.file.write_all(&line)?)
    }
}

/// Whether a line was written after the checkpoint of `step`: a later step, the end of the run, or an incomplete line.
fn is_later(line: &str, step: usize) -> bool {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return true };
    let own = event["global_step"].as_u64().or_else(|| event["step"].as_u64());
    let ends = ["finished", "stopped_early"].contains(&event["event"].as_str().unwrap_or_default());
    ends || event["train_loss"].is_number() || own.is_some_and(|own| own > step as u64)
}
