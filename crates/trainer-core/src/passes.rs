//! The passes of a step, whose losses are read together.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::micro_batches::{MicroBatches, NotFinite};
use crate::{LossTotal, Result, Task};

/// The passes of one worker in a step. Their losses are still where they were computed: on an accelerator, a read waits for all work
/// that was queued before it.
pub(crate) struct Passes<B>(Vec<Pass<B>>);

struct Pass<B> {
    group: MicroBatches<B>,
    targets: usize,
    /// Without its graph; `None` without targets.
    loss: Option<Tensor>,
}

impl<B> Passes<B> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, mut group: MicroBatches<B>, targets: usize, loss: Option<Tensor>) {
        group.release();
        self.0.push(Pass { group, targets, loss });
    }

    /// The number of targets.
    pub(crate) fn targets(&self) -> usize {
        self.0.iter().map(|pass| pass.targets).sum()
    }

    /// Descriptions of the micro-batches.
    pub(crate) fn descriptions(self) -> Vec<String> {
        self.0.into_iter().flat_map(|pass| pass.group.descriptions).collect()
    }

    /// The losses of the passes with targets.
    pub(crate) fn losses(&self) -> Vec<Tensor> {
        self.0.iter().filter_map(|pass| pass.loss.clone()).collect()
    }

    /// The results of the passes, given the values of [`losses`](Self::losses). After a loss that is not finite, runs the forward passes
    /// of its micro-batches again. `count` is the number of micro-batches of the step.
    pub(crate) fn reports<T: Task<Batch = B>>(
        self,
        values: &[f64],
        task: &T,
        count: usize,
    ) -> Result<Vec<PassReport>> {
        let mut values = values.iter().copied();
        let mut is_finite = true;
        let report = |Pass { group, targets, loss }: Pass<B>| {
            // An optimizer that returns too few losses has read none of the rest.
            let loss = loss.map_or(0.0, |_| values.next().unwrap_or(f64::NAN));
            let is_first = !loss.is_finite() && std::mem::take(&mut is_finite);
            let not_finite = is_first.then(|| group.find_non_finite(task, loss, count)).transpose()?;
            let (samples, batches) = (group.samples, group.descriptions);
            Ok(PassReport { loss, targets, samples, batches, not_finite })
        };
        self.0.into_iter().map(report).collect()
    }
}

/// The results of a pass that the other workers need.
#[derive(Serialize, Deserialize)]
pub(crate) struct PassReport {
    #[serde(with = "crate::bits")]
    loss: f64,
    targets: usize,
    samples: usize,
    batches: Vec<String>,
    not_finite: Option<NotFinite>,
}

/// The sums over all passes of a step.
pub(crate) struct Totals {
    pub(crate) loss: LossTotal,
    pub(crate) samples: usize,
    /// Descriptions of the micro-batches, for messages.
    pub(crate) batches: Vec<String>,
    /// The first loss that is not finite.
    pub(crate) not_finite: Option<NotFinite>,
}

impl Totals {
    /// The sums over passes in the order of the step.
    pub(crate) fn of(passes: Vec<PassReport>) -> Self {
        let sum = passes.iter().map(|pass| pass.loss).sum();
        let samples = passes.iter().map(|pass| pass.samples).sum();
        let targets = passes.iter().map(|pass| pass.targets).sum();
        let not_finite = passes.iter().find_map(|pass| pass.not_finite.clone());
        let batches = passes.into_iter().flat_map(|pass| pass.batches).collect();
        Self { loss: LossTotal { sum, targets }, samples, batches, not_finite }
    }
}
