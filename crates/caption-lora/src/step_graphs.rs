//! Forward and backward passes as CUDA graphs, one for each shape of a batch.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use caption_model::{CaptionModel, ShiftedLabels};
use train_ops::{DeviceGraph, ForwardContext, Run};
use trainer_core::{BoxError, Gradients, Parameters};

use crate::training_text::TrainingText;

/// The number of a batch's targets is padded to a multiple of this number, so that a run needs few graphs.
const TARGETS: usize = 32;
/// The largest number of graphs. Batches of further shapes run without a graph.
const MOST_GRAPHS: usize = 64;

/// The graphs of a model that is trained with its vision encoder frozen.
#[derive(Debug, Default)]
pub struct StepGraphs(Mutex<HashMap<PassShape, State>>);

/// The properties of a batch that determine the launches of its pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PassShape {
    batch: usize,
    length: usize,
    targets: usize,
}

#[derive(Debug)]
enum State {
    /// The shape has occurred once.
    Seen,
    Recorded(Box<Recorded>),
    /// The pass cannot be recorded, because it depends on other values of the host than its inputs.
    Refused,
}

/// The arguments of a pass.
pub struct Pass<'a> {
    /// The model.
    pub model: &'a dyn CaptionModel,
    /// The trained parameters.
    pub parameters: &'a Parameters,
    /// The share of each target that is spread over the vocabulary, in `[0, 1)`.
    pub label_smoothing: f32,
    /// The keys of dropout.
    pub ctx: ForwardContext,
}

impl StepGraphs {
    /// The graphs for a device; `None` unless it is an NVIDIA GPU and the build has the feature `fused-cuda`.
    pub fn new(device: &Device) -> Option<Self> {
        (device.is_cuda() && cfg!(feature = "fused-cuda")).then(Self::default)
    }

    /// The sum of the losses of a batch, the number of its targets and the gradients. A graph is recorded when
    /// a shape occurs for the second time. Passes without a graph run as on other devices.
    ///
    /// # Errors
    /// If the inputs do not fit the model, or the device fails.
    pub fn run(
        &self,
        pass: &Pass<'_>,
        text: &TrainingText,
        features: &Tensor,
    ) -> Result<(Tensor, usize, Gradients), BoxError> {
        let numbers = ShiftedLabels::new(&text.labels, &text.input_ids)?;
        let targets = numbers.targets.len();
        let (batch, length) = text.input_ids.dims2()?;
        let shape = PassShape::new(batch, length, targets);
        let mut graphs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match graphs.get(&shape) {
            _ if targets == 0 => {}
            Some(State::Recorded(recorded)) => {
                recorded.features.slice_set(&features.contiguous()?, 0, 0)?;
                recorded.input_ids.slice_set(&text.input_ids.contiguous()?, 0, 0)?;
            }
            Some(State::Seen) => {
                let recorded = Recorded::new(pass, shape, features.copy()?, text.input_ids.copy()?);
                let state = recorded.map_or(State::Refused, |recorded| State::Recorded(Box::new(recorded)));
                graphs.insert(shape, state);
            }
            None if graphs.len() < MOST_GRAPHS => {
                graphs.insert(shape, State::Seen);
            }
            Some(State::Refused) | None => {}
        }
        if let Some(State::Recorded(recorded)) = graphs.get(&shape).filter(|_| targets > 0) {
            let (loss, gradients) = recorded.replay(pass, shape, &numbers)?;
            return Ok((loss, targets, gradients));
        }
        drop(graphs);
        pass.run(text, features)
    }
}

impl Pass<'_> {
    /// The pass without a graph.
    fn run(&self, text: &TrainingText, features: &Tensor) -> Result<(Tensor, usize, Gradients), BoxError> {
        let (ids, smoothing) = (&text.input_ids, self.label_smoothing);
        let (loss, targets) = self.model.smoothed_loss(features, ids, &text.labels, smoothing, &self.ctx)?;
        let mut gradients = Gradients::new();
        if targets > 0 {
            gradients.accumulate(self.parameters, loss.backward()?)?;
        }
        Ok((loss.detach(), targets, gradients))
    }
}

#[derive(Debug)]
struct Recorded {
    features: Tensor,
    input_ids: Tensor,
    graph: DeviceGraph,
}

impl Recorded {
    fn new(
        pass: &Pass<'_>,
        shape: PassShape,
        features: Tensor,
        input_ids: Tensor,
    ) -> candle_core::Result<Self> {
        let work = |run: Run| {
            let labels = shape.labels(run);
            let (loss, _) = pass
                .model
                .smoothed_loss(&features, &input_ids, &labels, pass.label_smoothing, &pass.ctx)
                .map_err(candle_core::Error::wrap)?;
            let store = loss.backward()?;
            let mut results = vec![loss];
            for (name, variable) in pass.parameters.iter() {
                match store.get(variable) {
                    Some(gradient) => results.push(gradient.clone()),
                    None => candle_core::bail!("{name} has no gradient"),
                }
            }
            Ok(results)
        };
        let graph = DeviceGraph::record(pass.model.device(), work)?;
        Ok(Self { features, input_ids, graph })
    }

    /// The loss and the gradients, in memory of their own: the next replay writes to that of the graph.
    fn replay(
        &self,
        pass: &Pass<'_>,
        shape: PassShape,
        numbers: &ShiftedLabels,
    ) -> Result<(Tensor, Gradients), BoxError> {
        let filled = |values: &[u32], with: u32| {
            let mut values = values.to_vec();
            values.resize(shape.targets, with);
            values
        };
        // Rows without a target are those of the first position; their loss and gradient are 0.
        let numbers = [filled(&numbers.positions, 0), filled(&numbers.targets, u32::MAX)].concat();
        let results = self.graph.replay(&pass.ctx, &numbers)?;
        let names = pass.parameters.iter().map(|(name, _)| name.to_owned());
        let mut gradients = Gradients::from_iter(names.zip(results[1..].iter().cloned()));
        // Copies all of them in one launch.
        gradients.scale(1.0)?;
        Ok((results[0].copy()?, gradients))
    }
}

impl PassShape {
    /// The shape of a pass over `batch` captions of `length` tokens, padding included, with `targets` in all. One graph serves several
    /// numbers of targets.
    pub fn new(batch: usize, length: usize, targets: usize) -> Self {
        let all = batch * length.saturating_sub(1);
        Self { batch, length, targets: targets.next_multiple_of(TARGETS).min(all) }
    }

    /// Labels with as many targets, others in each run: the model must take them from the host as inputs of the graph.
    fn labels(&self, run: Run) -> Vec<Vec<i64>> {
        let row = self.length.saturating_sub(1);
        let label = |index: usize| {
            let (is_target, id) = match run {
                Run::First => (index < self.targets, 0),
                Run::Recorded => (index >= self.batch * row - self.targets, 1),
            };
            if is_target { id } else { -100 }
        };
        let labels = |of: usize| {
            std::iter::once(-100).chain((0..row).map(|position| label(of * row + position))).collect()
        };
        (0..self.batch).map(labels).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn labels_of_the_two_runs_have_as_many_targets_in_other_places() {
        let shape = PassShape { batch: 3, length: 5, targets: 7 };
        let input_ids = Tensor::zeros((3, 5), DType::U32, &Device::Cpu).unwrap();
        let [first, second] = [Run::First, Run::Recorded]
            .map(|run| ShiftedLabels::new(&shape.labels(run), &input_ids).unwrap());
        assert_eq!((first.positions.len(), second.positions.len()), (7, 7));
        assert_ne!(first.positions, second.positions);
        assert_ne!(first.targets, second.targets);
    }
}
