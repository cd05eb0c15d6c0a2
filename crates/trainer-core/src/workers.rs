use crate::{BoxError, Gradients};

/// Data-parallel training: several processes or threads that train one model together.
///
/// Each worker runs the whole loop on its own share of every step's samples; [`sum`](Self::sum) is the only communication.
/// The gradients of a step are summed over workers before they are divided by the targets of all, so two workers on half
/// batches take the same step as one on whole batches. All apply the same update to the same parameters, which therefore
/// stay equal without being exchanged. Every worker needs
/// - a [`BatchSource`](crate::BatchSource) with its own share, and the same number of batches as the others;
/// - the same evaluation data, so that all take the same decisions;
/// - its own output directory.
///
/// Workers draw different dropout masks: with dropout, `n` workers that see the same samples differ from one.
pub trait Workers: Send {
    /// The number of this worker, from 0.
    fn rank(&self) -> usize;

    /// The number of workers.
    fn count(&self) -> usize;

    /// Replaces every gradient and every number by its sum over all workers. Blocks until all have called it. The result
    /// must be bit-identical for all.
    ///
    /// A worker whose share had no targets has no gradients; they count as 0: see [`Gradients::add`].
    ///
    /// # Errors
    /// If a worker is lost. The run then ends, and can be resumed.
    fn sum(&self, gradients: &mut Gradients, numbers: &mut [f64]) -> Result<(), BoxError>;
}

/// Training in a single process. The default.
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
