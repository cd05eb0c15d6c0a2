//! Forward and backward passes as CUDA graphs, one for each shape of a batch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor, TensorId};
use caption_model::{CaptionModel, TextBatch};
use train_ops::{DeviceGraph, ForwardContext, Run, backward};
use trainer_core::{BoxError, Gradients, Parameters, Warning};

use crate::features::PassFeatures;
use crate::pass_shape::PassShape;
use crate::vision_graphs::VisionGraphs;

/// The largest number of graphs. Batches of further shapes run without a graph.
const MOST_GRAPHS: usize = 64;

/// The graphs of a model that is trained with its vision encoder frozen. After an adapter was replaced, or with other parameters, they
/// are recorded again.
#[derive(Debug, Default)]
pub struct StepGraphs {
    passes: Mutex<Graphs>,
    vision: VisionGraphs,
}

#[derive(Debug, Default)]
struct Graphs {
    states: HashMap<Key, State>,
    /// The memory that all of them refer to; `None` before the first recording.
    origin: Option<Origin>,
    /// Whether a pass could not be recorded.
    refused: bool,
    /// Not yet taken. The first one is enough, as the others have the same cause.
    warning: Option<Warning>,
}

/// The properties of a pass that determine its launches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    shape: PassShape,
    /// The bits of the share, which is an argument of a launch.
    label_smoothing: u32,
}

/// The memory that the graphs refer to.
#[derive(Debug)]
struct Origin {
    /// The pass of the first recording. It knows whether an adapter was replaced since.
    ctx: ForwardContext,
    /// The trained parameters.
    parameters: Vec<TensorId>,
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
    /// The graphs for a device; `None` unless it is an NVIDIA GPU of compute capability 8.0 or newer and the build has the feature
    /// `fused-cuda`.
    pub fn new(device: &Device) -> Option<Self> {
        DeviceGraph::is_supported(device).then(Self::default)
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
        text: &TextBatch,
        features: &PassFeatures<'_>,
    ) -> Result<(Tensor, usize, Gradients), BoxError> {
        let labels = text.shifted_labels()?;
        let targets = labels.targets.len();
        let shape = PassShape::of(text, targets);
        let key = Key { shape, label_smoothing: pass.label_smoothing.to_bits() };
        let mut graphs = self.passes();
        graphs.forget_others(pass);
        match graphs.states.get(&key) {
            _ if targets == 0 => {}
            Some(State::Recorded(recorded)) => features.write(&recorded.features)?,
            Some(State::Seen) => {
                let state = match Recorded::new(pass, &key.shape, features.copied()?) {
                    Ok(recorded) => {
                        graphs.origin.get_or_insert_with(|| Origin::of(pass));
                        State::Recorded(Box::new(recorded))
                    }
                    Err(error) => graphs.refuse(&key.shape, &error),
                };
                graphs.states.insert(key.clone(), state);
            }
            None if graphs.states.len() < MOST_GRAPHS => {
                graphs.states.insert(key.clone(), State::Seen);
            }
            Some(State::Refused) | None => {}
        }
        if let Some(State::Recorded(recorded)) = graphs.states.get(&key).filter(|_| targets > 0) {
            let (loss, gradients) = recorded.replay(pass, &text.numbers(labels, key.shape.targets()))?;
            return Ok((loss, targets, gradients));
        }
        drop(graphs);
        pass.run(text, features)
    }

    /// The frozen encoder's features of pictures `(batch, channels, size, size)`, recorded as the passes are. The next call may write
    /// its features to the same memory.
    ///
    /// # Errors
    /// If the pictures do not fit the model, or the device fails.
    pub fn encode(&self, model: &dyn CaptionModel, pixel_values: &Tensor) -> Result<Tensor, BoxError> {
        let (features, refused) = self.vision.encode(model, pixel_values)?;
        if let Some(error) = refused {
            let pictures = pixel_values.dim(0)?;
            self.passes().warn(format!("passes of the vision encoder over {pictures} pictures"), &error);
        }
        Ok(features)
    }

    /// Why a pass could not be recorded, once.
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.passes().warning.take().into_iter().collect()
    }

    fn passes(&self) -> MutexGuard<'_, Graphs> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    fn of(pass: &Pass<'_>) -> Self {
        Self { ctx: pass.ctx.clone(), parameters: ids(pass).collect() }
    }

    /// Whether a pass uses this memory too.
    fn serves(&self, pass: &Pass<'_>) -> bool {
        self.ctx.is_current() && self.parameters.iter().copied().eq(ids(pass))
    }
}

fn ids(pass: &Pass<'_>) -> impl Iterator<Item = TensorId> {
    pass.parameters.iter().map(|(_, variable)| variable.id())
}

impl Graphs {
    /// Forgets all graphs if they refer to other memory than the pass, as after an adapter was replaced.
    fn forget_others(&mut self, pass: &Pass<'_>) {
        if self.origin.as_ref().is_some_and(|origin| !origin.serves(pass)) {
            self.states.clear();
            self.origin = None;
        }
    }

    fn refuse(&mut self, shape: &PassShape, error: &candle_core::Error) -> State {
        let (batch, length) = (shape.batch(), shape.length());
        self.warn(format!("training passes of {batch} captions of {length} tokens"), error);
        State::Refused
    }

    fn warn(&mut self, work: String, error: &candle_core::Error) {
        if !std::mem::replace(&mut self.refused, true) {
            self.warning = Some(Warning::GraphNotRecorded { work, reason: error.to_string() });
        }
    }
}

impl Pass<'_> {
    /// The pass without a graph.
    fn run(
        &self,
        text: &TextBatch,
        features: &PassFeatures<'_>,
    ) -> Result<(Tensor, usize, Gradients), BoxError> {
        let (loss, targets) =
            self.model.text_loss(&features.get()?, text, self.label_smoothing, &self.ctx)?;
        let mut gradients = Gradients::new();
        if targets > 0 {
            gradients.accumulate(self.parameters, backward(&loss)?)?;
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
    fn new(pass: &Pass<'_>, shape: &PassShape, features: Tensor) -> candle_core::Result<Self> {
        let work = |run: Run| {
            let (loss, _) = pass
                .model
                .text_loss(&features, &shape.text(run), pass.label_smoothing, &pass.ctx)
                .map_err(candle_core::Error::wrap)?;
            let store = backward(&loss)?;
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
        Ok(Self { features, graph })
    }

    /// The loss and the gradients of a pass that takes these `numbers` from the host, in the memory of the graph.
    fn replay(&self, pass: &Pass<'_>, numbers: &[u32]) -> Result<(Tensor, Gradients), BoxError> {
        let results = self.graph.replay(&pass.ctx, numbers)?;
        let names = pass.parameters.iter().map(|(name, _)| name.to_owned());
        Ok((results[0].clone(), Gradients::from_iter(names.zip(results[1..].iter().cloned()))))
    }
}
