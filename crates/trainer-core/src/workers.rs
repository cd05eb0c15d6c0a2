use crate::{BoxError, Gradients};

/// The processes, or threads, that train one model together: each runs the whole loop on its own share of every step's
/// samples, and this is the one place where they meet.
///
/// The gradients of a step are summed over workers before they are divided by the targets of all, so that two workers
/// on half batches make the step of one on whole ones. As all then apply the same update to the same parameters, they
/// stay equal without ever exchanging them. Every worker needs
/// - a [`BatchSource`](crate::BatchSource) of its own share, with the same number of batches as the others';
/// - the same evaluation data, so that all decide alike;
/// - an output directory of its own.
///
/// With dropout, workers draw masks of their own: `n` of them learn from the same samples as one does, under other masks.
pub trait Workers {
    /// This worker's number, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Replaces every gradient and every number by its sum over all workers, which must be the same for all to the
    /// last bit. Waits for all of them.
    ///
    /// A worker whose share had no targets has no gradients, which count as 0: see [`Gradients::add`].
    ///
    /// # Errors
    /// If a worker is lost; that ends the run, to be resumed.
    fn sum(&self, gradients: &mut Gradients, numbers: &mut [f64]) -> Result<(), BoxError>;
}

/// A process that trains alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl Workers for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn sum(&self, _gradients: &mut Gradients, _numbers: &mut [f64]) -> Result<(), BoxError> {
        Ok(())
    }
}
