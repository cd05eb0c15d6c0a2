//! The hub's client waits for an answer for as long as it takes, which may be for ever. Here it is watched.

use std::{io, sync::mpsc, thread, time::Duration};

use hf_hub::api::{Progress, sync::ApiError};
use indicatif::ProgressBar;

/// What is heard of a request.
pub(super) enum Sign<T> {
    /// Bytes came.
    Alive,
    /// It came to its end.
    Done(Result<T, ApiError>),
}

/// Runs a request on a thread of its own. `None` if nothing was heard of it for as long as `timeout`: the client cannot
/// be stopped, so that its thread goes on to wait, until the connection or the process ends.
pub(super) fn watch<T: Send + 'static>(
    timeout: Duration,
    request: impl FnOnce(mpsc::Sender<Sign<T>>) -> Result<T, ApiError> + Send + 'static,
) -> Option<Result<T, ApiError>> {
    let (sender, signs) = mpsc::channel();
    thread::spawn(move || {
        let done = request(sender.clone());
        // Nobody listens any more if it took too long.
        let _ = sender.send(Sign::Done(done));
    });
    loop {
        match signs.recv_timeout(timeout) {
            Ok(Sign::Alive) => {}
            Ok(Sign::Done(result)) => return Some(result),
            Err(mpsc::RecvTimeoutError::Timeout) => return None,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Some(Err(ApiError::IoError(io::Error::other("the hub's client panicked"))));
            }
        }
    }
}

/// Tells of the bytes of a download, and shows them in a bar if there is one.
pub(super) struct Watched<T> {
    pub(super) bar: Option<ProgressBar>,
    pub(super) signs: mpsc::Sender<Sign<T>>,
}

impl<T> Progress for Watched<T> {
    fn init(&mut self, size: usize, filename: &str) {
        if let Some(bar) = &mut self.bar {
            bar.init(size, filename);
        }
    }

    fn update(&mut self, size: usize) {
        let _ = self.signs.send(Sign::Alive);
        if let Some(bar) = &mut self.bar {
            bar.update(size);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &mut self.bar {
            Progress::finish(bar);
        }
    }
}
