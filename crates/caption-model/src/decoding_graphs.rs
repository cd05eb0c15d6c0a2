use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor, bail};
use train_ops::{
    DecodingRows, DeviceGraph, ForwardContext, KeyValueCache, enter, host_numbers, packed_top_logits,
};

use crate::{CaptionModel, LoadOptions, Result, TextDecoder};

/// Slots of a sequence in the table of a graph, if the sequence is not longer.
const FEWEST_COLUMNS: usize = 32;
/// The largest number of graphs. Steps of further shapes are launched kernel by kernel.
const MOST_GRAPHS: usize = 64;

/// Decoding steps of a model that are recorded as CUDA graphs, and the caches whose memory the graphs use.
///
/// They outlive a call of [`generate`](CaptionModel::generate). One [`Decoding`](crate::Decoding) at a time uses them; others
/// meanwhile decode without graphs, on the same thread. Another thread must not use the device while a step is recorded: a device has
/// one stream, and whatever is queued on it then becomes a part of the graph instead of being computed.
#[derive(Debug)]
pub struct DecodingGraphs(Mutex<Option<Recordings>>);

impl DecodingGraphs {
    /// For a model with these options. `None` if they ask for no graphs, or the device records none.
    pub fn new(options: &LoadOptions) -> Option<Self> {
        let recorded = options.decoding_graphs && DeviceGraph::is_supported(&options.device);
        recorded.then(|| Self(Mutex::new(Some(Recordings::default()))))
    }

    /// The number of graphs; 0 while they are in use.
    pub fn count(&self) -> usize {
        let recordings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let states = recordings.iter().flat_map(|recordings| recordings.graphs.values());
        states.filter(|state| matches!(state, State::Recorded { .. })).count()
    }

    /// A step that could not be recorded, once in the life of the model: the others have the same cause. `None` while the graphs are in
    /// use.
    pub fn take_refusal(&self) -> Option<RefusedStep> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.refusal.take()
    }

    /// The recordings, until the result is dropped. `None` if they are in use.
    pub(crate) fn lend(&self) -> Option<Lent<'_>> {
        let recordings = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Lent { owner: self, recordings })
    }
}

/// Decoding steps that could not be recorded. They are launched kernel by kernel, with the same results in more time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedStep {
    /// The number of sequences of a step.
    pub sequences: usize,
    /// The error of the recording.
    pub reason: String,
}

/// The recordings of a model in use.
#[derive(Debug)]
pub(crate) struct Lent<'a> {
    owner: &'a DecodingGraphs,
    pub(crate) recordings: Recordings,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let recordings = std::mem::take(&mut self.recordings);
        *self.owner.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(recordings);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Recordings {
    graphs: HashMap<StepShape, State>,
    /// The pass in which they were recorded. It keeps the adapters that they use. A pass whose decoder has copies of trained parameters
    /// shares them with no other, so that its graphs serve one call.
    pass: Option<ForwardContext>,
    /// One for each layer.
    caches: Vec<KeyValueCache>,
    /// Whether a step could not be recorded.
    refused: bool,
    /// The first such step, until it is taken.
    refusal: Option<RefusedStep>,
}

/// The properties of a step that determine its launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StepShape {
    sequences: usize,
    /// Slots of each sequence in the table.
    columns: usize,
    best: Option<usize>,
}

#[derive(Debug)]
enum State {
    /// The shape has occurred once.
    Seen,
    Recorded {
        graph: Box<DeviceGraph>,
        /// Has the weights that the graph uses.
        _decoder: Arc<dyn TextDecoder>,
    },
    /// The step cannot be recorded.
    Refused,
}

impl Recordings {
    /// The caches of the current call.
    pub(crate) fn caches(&self) -> &[KeyValueCache] {
        &self.caches
    }

    /// Begins a call with these new caches: copies their pictures' keys and values to the caches of the graphs. If those are too
    /// small, the new ones take their place, and all graphs are recorded again.
    pub(crate) fn begin(&mut self, caches: Vec<KeyValueCache>) -> Result<()> {
        let mut serve = self.caches.len() == caches.len();
        for (own, new) in self.caches.iter().zip(&caches) {
            serve = serve && own.take_images(new)?;
        }
        if !serve {
            self.graphs.clear();
            self.caches = caches;
        }
        Ok(())
    }

    /// The values of a step that was recorded, or is recorded now because it occurs for the second time. `None` if it must be
    /// launched kernel by kernel.
    pub(crate) fn run<M: CaptionModel + ?Sized>(
        &mut self,
        step: &RecordableStep<'_, M>,
    ) -> Result<Option<Vec<f32>>> {
        self.caches.iter().try_for_each(|cache| cache.check(step.rows))?;
        // Adapters may have been replaced since.
        if !self.pass.as_ref().is_some_and(|pass| step.ctx.has_values_of(pass)) {
            self.graphs.clear();
            self.pass = Some(step.ctx.clone());
        }
        let shape = step.shape();
        match self.graphs.get(&shape) {
            Some(State::Recorded { .. }) => {}
            Some(State::Seen) => {
                let caches = &self.caches;
                let state = match DeviceGraph::record(step.model.device(), |_| step.work(caches)) {
                    Ok(graph) => {
                        State::Recorded { graph: Box::new(graph), _decoder: Arc::clone(step.decoder) }
                    }
                    Err(error) => self.refuse(&shape, &error),
                };
                self.graphs.insert(shape, state);
            }
            None if self.graphs.len() < MOST_GRAPHS => {
                self.graphs.insert(shape, State::Seen);
                return Ok(None);
            }
            Some(State::Refused) | None => return Ok(None),
        }
        match self.graphs.get(&shape) {
            Some(State::Recorded { graph, .. }) => {
                let results = graph.replay(step.ctx, &step.numbers())?;
                results.first().map(|values| Ok(values.to_vec1()?)).transpose()
            }
            _ => Ok(None),
        }
    }

    fn refuse(&mut self, shape: &StepShape, error: &candle_core::Error) -> State {
        if !std::mem::replace(&mut self.refused, true) {
            self.refusal = Some(RefusedStep { sequences: shape.sequences, reason: error.to_string() });
        }
        State::Refused
    }
}

/// A step of one token for each sequence, after other steps of the same pass, without adapters by name.
pub(crate) struct RecordableStep<'a, M: ?Sized> {
    pub(crate) model: &'a M,
    pub(crate) decoder: &'a Arc<dyn TextDecoder>,
    pub(crate) ctx: &'a ForwardContext,
    /// With the new tokens.
    pub(crate) rows: &'a DecodingRows,
    /// One for each row.
    pub(crate) tokens: &'a [u32],
    /// The number of best logits; `None` for all logits.
    pub(crate) best: Option<usize>,
}

impl<M: CaptionModel + ?Sized> RecordableStep<'_, M> {
    fn shape(&self) -> StepShape {
        let columns = self.rows.tokens().next_power_of_two().max(FEWEST_COLUMNS);
        StepShape { sequences: self.rows.len(), columns, best: self.best }
    }

    /// All that changes from step to step: the tokens, their positions, and the numbers of the rows.
    fn numbers(&self) -> Vec<u32> {
        let positions: Vec<u32> = self.rows.lengths().map(|length| length as u32 - 1).collect();
        [self.tokens, &positions, &self.rows.numbers(self.shape().columns)].concat()
    }

    /// The logits, or the packed best logits, as one list on the device.
    fn work(&self, caches: &[KeyValueCache]) -> candle_core::Result<Vec<Tensor>> {
        let StepShape { sequences, columns, best } = self.shape();
        let numbers = host_numbers(&self.numbers(), self.model.device())?;
        let part = |first: usize| numbers.narrow(0, first, sequences)?.reshape((sequences, 1));
        let (input_ids, positions) = (part(0)?, part(sequences)?);
        let of_rows = numbers.narrow(0, 2 * sequences, numbers.elem_count() - 2 * sequences)?;
        let logits = || -> Result<Tensor> {
            let rows = self.rows.with_numbers(of_rows, columns)?;
            let _pass = enter(self.ctx.clone());
            let text = self.model.embed(&input_ids, &positions)?;
            self.decoder.step(&text, caches, &rows)
        };
        let logits = logits().map_err(candle_core::Error::wrap)?;
        let Some(count) = best else { return Ok(vec![logits.to_dtype(DType::F32)?.flatten_all()?]) };
        match packed_top_logits(&logits, count).map_err(candle_core::Error::wrap)? {
            Some(packed) => Ok(vec![packed]),
            None => bail!("there is no kernel for the best logits"),
        }
    }
}
