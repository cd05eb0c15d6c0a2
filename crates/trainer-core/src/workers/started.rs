//! Exchanges of numbers that run while a worker computes.

use std::ops::Range;

use super::Workers;
use crate::BoxError;

/// An exchange that [`Workers::start_exchange`] has started.
///
/// Started exchanges must be waited for in the order of their start, and before any other call but
/// [`start_exchange`](Workers::start_exchange). If one is dropped, the run has failed.
pub trait Exchange {
    /// Moves the exchange on, without waiting for other workers. The engine calls it between the layers of a backward pass.
    /// Default: nothing, for a connection that needs no help.
    fn progress(&mut self) {}

    /// Waits until the numbers of all workers are here, and returns them, joined by rank.
    ///
    /// # Errors
    /// As [`Workers::gather`].
    fn wait(self: Box<Self>) -> Result<Vec<f32>, BoxError>;
}

/// An exchange that begins when it is waited for.
pub(super) struct Deferred<'a, W: ?Sized> {
    pub(super) workers: &'a W,
    pub(super) numbers: Vec<f32>,
    pub(super) to: Vec<Range<usize>>,
    pub(super) from: Vec<usize>,
}

impl<W: Workers + ?Sized> Exchange for Deferred<'_, W> {
    fn wait(self: Box<Self>) -> Result<Vec<f32>, BoxError> {
        let lengths: Vec<usize> = self.to.iter().map(Range::len).collect();
        let segments: Vec<&[f32]> = self.to.iter().map(|range| &self.numbers[range.clone()]).collect();
        self.workers.exchange(&segments.concat(), &lengths, &self.from)
    }
}
