//! TensorBoard event files: [records](record) of [protocol buffers](proto).

mod proto;
mod record;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::record::record;
use super::scalars::scalars;
use crate::{BoxError, Error, Event, EventSink, Result};

/// Writes the curves of a run for TensorBoard: `tensorboard --logdir DIRECTORY`.
///
/// Every process writes its own file, as TensorBoard expects. A resumed run marks the step at which it resumes,
/// and TensorBoard then hides later values of the earlier process.
#[derive(Debug)]
pub struct TensorBoardSink {
    file: File,
}

impl TensorBoardSink {
    /// Creates a file in `directory`, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(directory: &Path) -> Result<Self> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action, path, source }
        };
        std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        // TensorBoard reads the files of a directory in the order of their names.
        let now = since_1970();
        let name = format!("events.out.tfevents.{:010}.{:09}.trainer", now.as_secs(), now.subsec_nanos());
        let path = directory.join(name);
        let mut file = File::create_new(&path).map_err(io("create", &path))?;
        let version = proto::file_version(now.as_secs_f64());
        file.write_all(&record(&version)).map_err(io("write", &path))?;
        Ok(Self { file })
    }
}

impl EventSink for TensorBoardSink {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        let now = since_1970().as_secs_f64();
        let bytes = match event {
            Event::Started { global_step, .. } if *global_step > 0 => proto::restart(now, *global_step + 1),
            _ => match scalars(event) {
                Some((step, values)) => proto::summary(now, step, &values),
                None => return Ok(()),
            },
        };
        Ok(self.file.write_all(&record(&bytes))?)
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
