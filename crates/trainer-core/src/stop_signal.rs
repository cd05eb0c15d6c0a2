use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, raised from a signal handler or another thread.
///
/// The trainer checks it after every optimizer step: it completes the step with its logging and evaluation, saves a
/// checkpoint, and returns [`Outcome::Interrupted`](crate::Outcome::Interrupted). Clones share the request.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Creates a signal that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests the trainer to stop after the current step.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
