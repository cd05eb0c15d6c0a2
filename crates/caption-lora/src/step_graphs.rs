//! Forward and backward passes as CUDA graphs, one for each shape of a batch.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};
use caption_model::{CaptionModel, ShiftedLabels};
use train_ops::{DeviceGraph, ForwardContext, Run, host_numbers};
use trainer_core::{BoxError, Gradients, Parameters, Warning};

use crate::features::PassFeatures;
use crate::training_text::TrainingText;

/// The number of a batch's targets is padded to a multiple of this number, so that a run needs few graphs.
const TARGETS: usize = 32;
/// The largest number of graphs. Batches of further shapes run without a graph.
const MOST_GRAPHS: usize = 64;

/// The graphs of a model that is trained with its vision encoder frozen.
#[derive(Debug, Default)]
pub struct StepGraphs(Mutex<Graphs>);

#[derive(Debug, Default)]
struct Graphs {
    states: HashMap<PassShape, State>,
    /// Whether a pass could not be recorded.
    refused: bool,
    /// Not yet taken. The first one is enough, as the others have the same cause.
    warning: Option<Warning>,
}

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
    /// a shape occurs for the second time. Passes without a graph run as on other devices. The next call may write its results to
    /// the same memory.
    ///
    /// # Errors
    /// If the inputs do not fit the model, or the device fails.
    pub fn run(
        &self,
        pass: &Pass<'_>,
        text: &TrainingText,
        features: &PassFeatures<'_>,
    ) -> Result<(Tensor, usize, Gradients), BoxError> {
        let numbers = ShiftedLabels::new(&text.labels, &text.input_ids)?;
        let targets = numbers.targets.len();
        let (batch, length) = text.input_ids.dims2()?;
        let shape = PassShape::new(batch, length, targets);
        let mut graphs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match graphs.states.get(&shape) {
            _ if targets == 0 => {}
            Some(State::Recorded(recorded)) => features.write(&recorded.features)?,
            Some(State::Seen) => {
                let state = match Recorded::new(pass, shape, features.copied()?) {
                    Ok(recorded) => State::Recorded(Box::new(recorded)),
                    Err(error) => graphs.refuse(shape, &error),
                };
                graphs.states.insert(shape, state);
            }
            None if graphs.states.len() < MOST_GRAPHS => {
                graphs.states.insert(shape, State::Seen);
            }
            Some(State::Refused) | None => {}
        }
        if let Some(State::Recorded(recorded)) = graphs.states.get(&shape).filter(|_| targets > 0) {
            let (loss, gradients) = recorded.replay(pass, shape, text, &numbers)?;
            return Ok((loss, targets, gradients));
        }
        drop(graphs);
        pass.run(text, features)
    }

    /// Why a pass could not be recorded, once.
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).warning.take().into_iter().collect()
    }
}

impl Graphs {
    fn refuse(&mut self, shape: PassShape, error: &candle_core::Error) -> State {
        if !std::mem::replace(&mut self.refused, true) {
            let PassShape { batch, length, .. } = shape;
            let work = format!("training passes of {batch} captions of {length} tokens");
            self.warning = Some(Warning::GraphNotRecorded { work, reason: error.to_string() });
        }
        State::Refused
    }
}

impl Pass<'_> {
    /// The pass without a graph.
    fn run(
        &self,
        text: &TrainingText,
        features: &PassFeatures<'_>,
    ) -> Result<(Tensor, usize, Gradients), BoxError> {
        let features = features.get()?;
        let (ids, smoothing) = (text.input_ids.to_device(self.model.device())?, self.label_smoothing);
        let (loss, targets) =
            self.model.smoothed_loss(&features, &ids, &text.labels, smoothing, &self.ctx)?;
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
    graph: DeviceGraph,
}

impl Recorded {
    fn new(pass: &Pass<'_>, shape: PassShape, features: Tensor) -> candle_core::Result<Self> {
        let device = pass.model.device();
        let work = |run: Run| {
            let labels = shape.labels(run);
            let input_ids = host_numbers(&shape.ids(run), device)?.reshape((shape.batch, shape.length))?;
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
        let graph = DeviceGraph::record(device, work)?;
        Ok(Self { features, graph })
    }

    /// The loss and the gradients, in the memory of the graph.
    fn replay(
        &self,
        pass: &Pass<'_>,
        shape: PassShape,
        text: &TrainingText,
        numbers: &ShiftedLabels,
    ) -> Result<(Tensor, Gradients), BoxError> {
        let filled = |values: &[u32], with: u32| {
            let mut values = values.to_vec();
            values.resize(shape.targets, with);
            values
        };
        // Rows without a target are those of the first position; their loss and gradient are 0.
        let ids = text.input_ids.flatten_all()?.to_vec1()?;
        let numbers = [ids, filled(&numbers.positions, 0), filled(&numbers.targets, u32::MAX)].concat();
        let results = self.graph.replay(&pass.ctx, &numbers)?;
        let names = pass.parameters.iter().map(|(name, _)| name.to_owned());
        Ok((results[0].clone(), Gradients::from_iter(names.zip(results[1..].iter().cloned()))))
    }
}

impl PassShape {
    /// The shape of a pass over `batch` captions of `length` tokens, padding included, with `targets` in all. One graph serves several
    /// numbers of targets.
    pub fn new(batch: usize, length: usize, targets: usize) -> Self {
        let all = batch * length.saturating_sub(1);
        Self { batch, length, targets: targets.next_multiple_of(TARGETS).min(all) }
    }

    /// Token ids, others in each run, as the labels.
    fn ids(&self, run: Run) -> Vec<u32> {
        vec![u32::from(run == Run::Recorded); self.batch * self.length]
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
