use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::rewind::rewind;
use super::scalars::scalars;
use crate::{BoxError, Error, Event, EventSink, Result};

/// Writes the curves of a run as comma-separated values, one value per line: `step,metric,value`.
///
/// The lines of an event are written immediately, so the file can be followed during the run and survives a crash.
#[derive(Debug)]
pub struct CsvSink {
    file: File,
}

impl CsvSink {
    /// Opens the file at `path` to append to it, or creates it with its directory and a header. When a run resumes, lines after
    /// its checkpoint are removed, because the run writes them again.
    ///
    /// # Errors
    /// [`Error::Io`].
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

/// Whether a line belongs to a later step. The header does not.
fn is_later(line: &str, step: usize) -> bool {
    let own = line.split(',').next().and_then(|first| first.parse::<usize>().ok());
    own.is_some_and(|own| own > step)
}
