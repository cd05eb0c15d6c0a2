use std::sync::Arc;

use candle_core::Tensor;
use cpu_kernels::mix;

use crate::cuts::Cuts;
use crate::entered::entered;
use crate::shared::Held;

/// One forward pass over a batch: inference, or training with dropout.
///
/// A training pass has one key for each sample. Every dropout mask is a pure function of (sample key, layer,
/// element). So a mask does not depend on how samples are grouped into batches, on padding, on the number of
/// threads, or on earlier draws, and a pass that is repeated with the same keys has the same masks.
///
/// All layers of a pass see the same value of a [`Shared`](crate::Shared), such as the weights of an adapter that another
/// thread replaces. So make a new context for each pass; clones belong to the same pass.
#[derive(Clone, Debug)]
pub struct ForwardContext {
    sample_keys: Option<Arc<[u64]>>,
    adapters: Option<Arc<[String]>>,
    pub(crate) held: Held,
    pub(crate) cuts: Cuts,
}

impl ForwardContext {
    /// A context for inference: no dropout, and no graph for trainable parameters. On a thread that has
    /// [entered](crate::enter) a context, it belongs to the same pass, with its shared values and its adapters.
    pub fn inference() -> Self {
        match entered() {
            Some(pass) => Self { sample_keys: None, cuts: Cuts::default(), ..pass },
            None => Self { sample_keys: None, adapters: None, held: Held::default(), cuts: Cuts::default() },
        }
    }

    /// A context for training, with dropout from one key for each sample, in the order of the batch;
    /// [`sample_key`] makes the keys.
    pub fn training(sample_keys: impl Into<Arc<[u64]>>) -> Self {
        let sample_keys = Some(sample_keys.into());
        Self { sample_keys, adapters: None, held: Held::default(), cuts: Cuts::default() }
    }

    /// The context with an adapter for each sample, by name and in the order of the batch. Layers without
    /// adapters ignore the names.
    pub fn with_adapters<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        Self { adapters: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// The names that [`with_adapters`](Self::with_adapters) gave, one for each sample of the batch.
    pub fn adapters(&self) -> Option<&[String]> {
        self.adapters.as_deref()
    }

    /// The context for a batch of these samples of the context's batch, in this order. A sample that does not
    /// exist gets no adapter name, so that the first layer with adapters reports that the number of names is
    /// wrong.
    pub fn select(&self, samples: impl IntoIterator<Item = usize>) -> Self {
        let Some(names) = &self.adapters else { return self.clone() };
        let names = samples.into_iter().filter_map(|sample| names.get(sample).cloned());
        Self { adapters: Some(names.collect()), ..self.clone() }
    }

    /// Whether both passes have read the same [`Shared`](crate::Shared) values so far, in the same versions. Then a
    /// [`DeviceGraph`](crate::DeviceGraph) that refers to the memory of those values is right for both. A pass that uses a copy of
    /// trained parameters ([`snapshot`](crate::snapshot())) has the values of no other.
    pub fn has_values_of(&self, other: &Self) -> bool {
        self.held == other.held
    }

    /// Whether the [`Shared`](crate::Shared) values that this pass has read are still the current ones. Then a
    /// [`DeviceGraph`](crate::DeviceGraph) that was recorded in this pass, and refers to their memory, is right for a new pass.
    pub fn is_current(&self) -> bool {
        self.held.are_current()
    }

    /// Whether this pass trains.
    pub fn is_training(&self) -> bool {
        self.sample_keys.is_some()
    }

    /// The keys of a training pass, one for each sample; `None` in inference.
    pub fn sample_keys(&self) -> Option<&[u64]> {
        self.sample_keys.as_deref()
    }

    /// A trainable parameter for use in this pass: itself in training, detached from the graph in inference.
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
