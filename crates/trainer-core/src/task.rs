use std::ops::AddAssign;
use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{BoxError, Measured};

/// What is trained: how a batch becomes a loss.
///
/// The engine never sees the model. It asks for losses, follows them back to the
/// [`Parameters`](crate::Parameters), and updates those.
pub trait Task {
    /// What one forward pass takes; made by a [`BatchSource`](crate::BatchSource).
    type Batch;

    /// The loss of one micro-batch, differentiable in every trainable parameter.
    ///
    /// Whatever is drawn at random, dropout first of all, must be a function of `context` and the sample's place in
    /// the batch alone: then a resumed run repeats what the interrupted one would have done.
    fn train_loss(&self, batch: &Self::Batch, context: &StepContext) -> Result<LossSum, BoxError>;

    /// One batch of the samples of several micro-batches of a step, in their order: its loss, its targets and all that
    /// is drawn at random must be those of its parts together, but for rounding. Asked for where
    /// [`fused_micro_batches`](crate::TrainingArguments::fused_micro_batches) is above 1. Default: an error.
    fn merge(&self, _batches: &[Self::Batch]) -> Result<Self::Batch, BoxError> {
        Err("this task cannot merge micro-batches: fused_micro_batches must be 1".into())
    }

    /// The loss of one batch without dropout, and without leaving a graph behind.
    fn eval_loss(&self, batch: &Self::Batch) -> Result<LossTotal, BoxError>;

    /// The loss of one batch as [`eval_loss`](Self::eval_loss) has it, and what else should be known of it. Default:
    /// the loss alone.
    ///
    /// A metric is a pair of sums, so that nothing is kept of a batch, its logits least of all. Every batch should
    /// have the same metrics.
    fn measure(&self, batch: &Self::Batch) -> Result<Measured, BoxError> {
        Ok(Measured::new(self.eval_loss(batch)?))
    }

    /// The number of samples in a batch.
    fn num_samples(&self, batch: &Self::Batch) -> usize;

    /// The batch in a few words for error messages, such as its row numbers. Default: the number of samples.
    fn describe(&self, batch: &Self::Batch) -> String {
        format!("{} samples", self.num_samples(batch))
    }

    /// Writes the model in its own format into a checkpoint, for other programs to read. Default: nothing.
    ///
    /// The engine does not read these files: it saves and restores the trainable parameters itself.
    fn save_model(&self, _directory: &Path) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Where in the run a micro-batch is: all that a task may derive randomness from.
///
/// Sample `i` of the micro-batch is sample `first_sample + i` of its step, however the step was cut into
/// micro-batches. Where several [`Workers`](crate::Workers) share a step, worker `r` counts from `r · 2³²`. The fields are `u64` as that is what random keys are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepContext {
    /// Seed of the run.
    pub seed: u64,
    /// The optimizer step, from 0.
    pub step: u64,
    /// Samples of this step that came in micro-batches before this one.
    pub first_sample: u64,
}

/// The loss of a micro-batch as a sum, so that steps can be averaged over their targets: a mean of means would weigh
/// the targets of short batches more.
#[derive(Clone, Debug)]
pub struct LossSum {
    /// The sum of the losses of all targets: a scalar with its graph.
    pub sum: Tensor,
    /// The number of targets: tokens that are predicted, or samples where each has one. A batch of none adds nothing.
    pub targets: usize,
}

/// A sum of losses and the number of targets that it runs over.
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
    /// The loss of an average target; NaN if there was none.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }

    /// `exp(mean)`.
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
