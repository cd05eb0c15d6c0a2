use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request to stop, from a signal handler or another thread.
///
/// The trainer looks at it after every optimizer step: it finishes the step with the evaluation and logging that
/// belong to it, saves a checkpoint, and returns [`Outcome::Interrupted`](crate::Outcome::Interrupted). Clones share
/// the request.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// A signal that nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the trainer to stop after the step it is in.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
