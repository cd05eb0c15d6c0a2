use std::ops::AddAssign;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{BoxError, Gradients, Measured, Parameters, Result, Segments, Warning};

/// The model and its objective: turns a batch into a loss.
///
/// The engine does not use the model directly. It gets losses from the task, computes their gradients with
/// respect to the [`Parameters`](crate::Parameters), and updates these.
pub trait Task {
    /// The input of one forward pass, as a [`BatchSource`](crate::BatchSource) yields it.
    type Batch;

    /// Returns the loss of one micro-batch, differentiable in every trainable parameter.
    ///
    /// Anything random, such as dropout, must depend only on `context` and the sample's position in the batch,
    /// so that a resumed run has the same results as an uninterrupted one.
    fn train_loss(&self, batch: &Self::Batch, context: &StepContext) -> Result<LossSum, BoxError>;

    /// Computes the loss of one micro-batch and its gradients in another way, such as with a graph recorded on
    /// the device. They must be those of [`train_loss`](Self::train_loss) and its backward pass. The engine is done
    /// with the tensors before it calls this method again, so the next results may be in the same memory. Default: `None`;
    /// then the engine calls `train_loss`.
    fn train_gradients(
        &self,
        _batch: &Self::Batch,
        _context: &StepContext,
        _parameters: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        Ok(None)
    }

    /// Returns the loss of [`train_loss`](Self::train_loss) with its graph cut into segments. Called instead of it if the
    /// gradients are to be sent to other [`Workers`](crate::Workers) while the backward pass runs. Default: one segment, so
    /// that gradients are sent at the end.
    fn train_segments(&self, batch: &Self::Batch, context: &StepContext) -> Result<Segments, BoxError> {
        self.train_loss(batch, context).map(Segments::from)
    }

    /// Concatenates several micro-batches of a step, in order, into one batch. Its loss, targets and random draws must be
    /// those of the parts, up to rounding. Called when
    /// [`fused_micro_batches`](crate::TrainingArguments::fused_micro_batches) is above 1. Default: an error.
    fn merge(&self, _batches: &[Self::Batch]) -> Result<Self::Batch, BoxError> {
        Err("this task cannot merge micro-batches: fused_micro_batches must be 1".into())
    }

    /// Returns the loss of one batch without dropout. No graph is kept.
    ///
    /// A task without dropout can return `self.train_loss(batch, &StepContext::default())?.total()?`.
    fn eval_loss(&self, batch: &Self::Batch) -> Result<LossTotal, BoxError>;

    /// Returns the loss of one batch, as [`eval_loss`](Self::eval_loss) does, and further metrics. Default: the loss alone.
    ///
    /// A metric is a pair of sums, so that other data of a batch, such as its logits, need not be kept. Every
    /// batch should have the same metrics.
    fn measure(&self, batch: &Self::Batch) -> Result<Measured, BoxError> {
        Ok(Measured::new(self.eval_loss(batch)?))
    }

    /// Returns the number of samples in a batch.
    fn num_samples(&self, batch: &Self::Batch) -> usize;

    /// Describes the batch in a few words for error messages, for example by its row numbers. Default: the number of samples.
    fn describe(&self, batch: &Self::Batch) -> String {
        format!("{} samples", self.num_samples(batch))
    }

    /// Returns warnings that were not returned yet. The engine emits them after each step. Default: none.
    fn take_warnings(&self) -> Vec<Warning> {
        Vec::new()
    }

    /// Prepares the checkpoint of a step. It is called just before the checkpoint is written, on all
    /// [`Workers`](crate::Workers), which may divide the work; [`save_model`](Self::save_model) is called on
    /// worker 0 alone. Default: nothing.
    fn before_saving(&self, _global_step: usize) -> Result<(), BoxError> {
        Ok(())
    }

    /// Writes the model into a checkpoint in its own format, for other programs to read. Default: nothing.
    ///
    /// The engine does not read these files: it saves and restores the trainable parameters itself.
    fn save_model(&self, _directory: &Path) -> Result<(), BoxError> {
        Ok(())
    }
}

/// The position of a micro-batch in the run: the only source of randomness that a task may use.
///
/// Sample `i` of the micro-batch is sample `first_sample + i` of its step, however the step is split into micro-batches and
/// divided among [`Workers`](crate::Workers). The fields are `u64` because they are meant as parts of a random key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepContext {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the optimizer step, from 0.
    pub step: u64,
    /// Number of samples in the earlier micro-batches of this step, of all workers.
    pub first_sample: u64,
}

/// The loss of a micro-batch as a sum over its targets.
///
/// It is a sum, because a step is averaged over all of its targets: a mean of means would give the targets of
/// short batches more weight.
#[derive(Clone, Debug)]
pub struct LossSum {
    /// Sum of the losses of all targets: a scalar with its graph.
    pub sum: Tensor,
    /// Number of targets: predicted tokens, or samples if each has one. A batch with 0 targets adds nothing.
    pub targets: usize,
}

impl LossSum {
    /// Reads the loss as a number, without its graph.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the sum is not a scalar.
    pub fn total(&self) -> Result<LossTotal> {
        let sum = self.sum.to_dtype(DType::F64)?.to_scalar()?;
        Ok(LossTotal { sum, targets: self.targets })
    }
}

/// A sum of losses and its number of targets.
///
/// ```
/// use trainer_core::LossTotal;
///
/// let mut loss = LossTotal { sum: 3.0, targets: 1 };
/// loss += LossTotal { sum: 3.0, targets: 5 };
/// assert_eq!(loss.mean(), 1.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossTotal {
    /// The sum.
    pub sum: f64,
    /// The number of targets.
    pub targets: usize,
}

impl LossTotal {
    /// Returns the mean loss of a target; NaN without targets.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }

    /// Returns `exp(mean)`.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }
}

impl AddAssign for LossTotal {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.targets += other.targets;
    }
}
