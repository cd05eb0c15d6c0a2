use std::sync::Arc;

use candle_core::Tensor;
use cpu_kernels::mix;

/// The mode of one forward pass over a batch: inference, or training with dropout.
///
/// A training pass carries one key a sample. Every dropout mask is a pure function of (sample key, layer, element), so
/// that a mask does not depend on how samples are grouped into batches, how far a batch is padded, on the number of
/// threads, or on what was drawn before; a pass repeated with the same keys repeats its masks.
#[derive(Clone, Debug)]
pub struct ForwardContext {
    sample_keys: Option<Arc<[u64]>>,
}

impl ForwardContext {
    /// No dropout, and no graph for trainable parameters.
    pub fn inference() -> Self {
        Self { sample_keys: None }
    }

    /// Dropout from one key for each sample of the batch, in batch order; [`sample_key`] makes them.
    pub fn training(sample_keys: impl Into<Arc<[u64]>>) -> Self {
        Self { sample_keys: Some(sample_keys.into()) }
    }

    /// Whether this pass trains.
    pub fn is_training(&self) -> bool {
        self.sample_keys.is_some()
    }

    /// The keys of a training pass, one for each sample; `None` in inference.
    pub fn sample_keys(&self) -> Option<&[u64]> {
        self.sample_keys.as_deref()
    }

    /// A trainable parameter as this pass should see it: itself when training, cut from the graph in inference.
    pub fn parameter(&self, parameter: &Tensor) -> Tensor {
        if self.is_training() { parameter.clone() } else { parameter.detach() }
    }
}

/// The dropout key of one sample: a function of the run's seed, the optimizer step and the sample's index among the
/// samples of that step, counted over all micro-batches.
///
/// ```
/// let keys: Vec<u64> = (0..2).map(|sample| train_ops::sample_key(42, 7, sample)).collect();
/// assert_ne!(keys[0], keys[1]);
/// assert_eq!(keys[1], train_ops::sample_key(42, 7, 1));
/// ```
pub fn sample_key(seed: u64, step: u64, sample: u64) -> u64 {
    mix(mix(mix(seed) ^ step) ^ sample)
}
