use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::rewind::rewind;
use super::scalars::scalars;
use crate::{BoxError, Error, Event, EventSink, Result};

/// Writes the curves of a run as comma-separated values with one number a line: `step,metric,value`.
///
/// The lines of an event are written at once, so that the file can be followed and survives a crash.
#[derive(Debug)]
pub struct CsvSink {
    file: File,
}

impl CsvSink {
    /// Appends to the file at `path`, which is created, with its directory and a heading, where it does not exist. The
    /// numbers of a resumed run follow those up to the checkpoint that it resumes from: later ones are removed, as they come
    /// again.
    pub fn append(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io("create the directory of"))?;
        }
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(path).map_err(io("open"))?;
        if file.metadata().map_err(io("read"))?.len() == 0 {
            file.write_all(b"step,metric,value\n").map_err(io("write"))?;
        }
        Ok(Self { file })
    }
}

impl EventSink for CsvSink {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        if let Event::Resumed { global_step, .. } = event {
            rewind(&mut self.file, |line| is_later(line, *global_step))?;
        }
        let Some((step, values)) = scalars(event) else { return Ok(()) };
        let lines: String = values.iter().map(|(name, value)| format!("{step},{name},{value}\n")).collect();
        Ok(self.file.write_all(lines.as_bytes())?)
    }
}

/// Whether a line is of a later step; the heading is of none.
fn is_later(line: &str, step: usize) -> bool {
    let of = line.split(',').next().and_then(|of| of.parse::<usize>().ok());
    of.is_some_and(|of| of > step)
}
