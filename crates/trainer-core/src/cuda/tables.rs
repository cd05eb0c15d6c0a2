use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::DeviceId;
use candle_core::{Result, Tensor};
use cuda_kernels::device::{Kernels, LaunchGraph, overwrite};
use cuda_kernels::{AdamW, Launch, OptimizerTensor, Pointer, TensorTable};

use super::Update;

/// The tables of the newest launches. A run has one kind, whose memory all steps use.
static NEWEST: Mutex<Vec<Tables>> = Mutex::new(Vec::new());

/// Tables that are kept.
const MOST: usize = 4;

/// The tables of a launch and the memory of its sums, on a device: words of 64 bits, which are
///
/// - the tensor of each chunk, two to a word,
/// - [`AdamW::result`] of gradients that are not clipped, two words, which never change,
/// - the sum of squares of each chunk,
/// - [`TensorTable::losses`], and
/// - the tensors.
pub(super) struct Tables {
    device: DeviceId,
    chunks: Vec<u32>,
    tensor_count: usize,
    words: Tensor,
    /// The largest number of losses.
    loss_room: usize,
    /// The norm of each tensor, [`AdamW::result`], two words, and the losses: apart, because only these are copied to the host.
    norms: Tensor,
    recording: Recording,
}

/// The launches of a step as a graph. Everything that differs between steps is in the tables, which the launches read.
enum Recording {
    None,
    Recorded(Settings, LaunchGraph),
    Refused,
}

/// The arguments of a step's launches that are the same in each step.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Settings {
    betas: [f64; 2],
    epsilon: f64,
    /// `None` if gradients are neither measured nor clipped.
    max_norm: Option<f64>,
}

impl Settings {
    pub(super) fn new(update: &Update, max_norm: Option<f64>) -> Self {
        Self { betas: update.betas, epsilon: update.epsilon, max_norm }
    }
}

impl Tables {
    /// Runs `launch` with the tables of these tensors and losses, in memory that is kept for the next call with tensors of these sizes
    /// and as many losses at most. All work of a device is in one order, so that the launches before have read what was there.
    pub(super) fn with<T>(
        kernels: &Kernels,
        tensors: &[OptimizerTensor],
        losses: &[Pointer],
        launch: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let TensorTable { tensors: words, chunks } =
            TensorTable::new(tensors).map_err(candle_core::Error::wrap)?;
        let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.iter().position(|tables| {
            tables.device == kernels.device_id()
                && tables.chunks == chunks
                && tables.tensor_count == tensors.len()
                && tables.loss_room >= losses.len()
        });
        let tables = match known {
            Some(known) => newest.remove(known),
            None => Self::new(kernels, chunks, [tensors.len(), losses.len()], words.len())?,
        };
        newest.truncate(MOST - 1);
        newest.insert(0, tables);
        let tables = &mut newest[0];
        let changed = [TensorTable::losses(losses, tables.loss_room), words].concat();
        overwrite(&tables.words.narrow(0, tables.at_losses(), changed.len())?, &signed(&changed))?;
        launch(tables)
    }

    fn new(
        kernels: &Kernels,
        chunks: Vec<u32>,
        [tensor_count, loss_room]: [usize; 2],
        words_of_tensors: usize,
    ) -> Result<Self> {
        let mut words: Vec<u64> = chunks
            .chunks(2)
            .map(|pair| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32)
            .collect();
        // No norm; the factor is 1.
        words.extend([0, u64::from(1f32.to_bits())]);
        words.resize(words.len() + chunks.len() + 1 + loss_room + words_of_tensors, 0);
        let norms = kernels.words(&vec![0; tensor_count + 2 + loss_room])?;
        let (device, words) = (kernels.device_id(), kernels.words(&words)?);
        Ok(Self { device, chunks, tensor_count, words, loss_room, norms, recording: Recording::None })
    }

    /// Runs launches on the tensors of the table, which are `inputs` and not used by others meanwhile. `launches` gets the arguments for
    /// gradients that are not clipped.
    pub(super) fn launch(
        &self,
        kernels: &Kernels,
        inputs: &[&Tensor],
        launches: impl FnOnce(&AdamW) -> cuda_kernels::Result<Vec<Launch>>,
    ) -> Result<()> {
        let read = [inputs, &self.memory()].concat();
        // SAFETY: the tables describe these tensors, and have memory for the sums.
        #[allow(unsafe_code)]
        unsafe {
            kernels.run(&read, &mut [], |addresses, _| launches(&self.adamw(&addresses[inputs.len()..])))
        }
    }

    /// Launches a step.
    pub(super) fn step(&self, kernels: &Kernels, inputs: &[&Tensor], settings: Settings) -> Result<()> {
        self.launch(kernels, inputs, |adamw| self.launches(adamw, settings))
    }

    /// The same by one call of the driver, if the step was recorded. Otherwise launches and records it, for the next step; returns the
    /// reason, once, if it cannot be recorded.
    pub(super) fn replay(
        &mut self,
        kernels: &Kernels,
        inputs: &[&Tensor],
        settings: Settings,
    ) -> Result<Option<String>> {
        match &self.recording {
            Recording::Recorded(recorded, graph) if *recorded == settings => {
                let mut replayed = Ok(());
                self.launch(kernels, inputs, |_| {
                    // SAFETY: the tables describe the inputs, which are borrowed, and have the addresses of the recording.
                    #[allow(unsafe_code)]
                    unsafe {
                        replayed = graph.replay();
                    }
                    Ok(Vec::new())
                })?;
                return replayed.map(|()| None);
            }
            Recording::Refused => return self.step(kernels, inputs, settings).map(|()| None),
            Recording::Recorded(..) | Recording::None => self.step(kernels, inputs, settings)?,
        }
        let memory = kernels.addresses(&self.memory())?;
        let launches = self.launches(&self.adamw(&memory), settings).map_err(candle_core::Error::wrap)?;
        // SAFETY: each replay writes to the tables first, as above.
        #[allow(unsafe_code)]
        let graph = unsafe { LaunchGraph::record(kernels, &launches) };
        let (recording, refused) = match graph {
            Ok(graph) => (Recording::Recorded(settings, graph), None),
            Err(error) => (Recording::Refused, Some(error.to_string())),
        };
        self.recording = recording;
        Ok(refused)
    }

    fn launches(&self, adamw: &AdamW, settings: Settings) -> cuda_kernels::Result<Vec<Launch>> {
        let Settings { betas, epsilon, max_norm } = settings;
        let adamw = AdamW { betas, epsilon, max_norm: max_norm.unwrap_or(0.0), ..adamw.clone() };
        let Some(_) = max_norm else {
            return Ok(vec![AdamW { result: self.unclipped(adamw.chunks), ..adamw }.step()?]);
        };
        let [squares, norms] = adamw.norms()?;
        Ok(vec![squares, norms, adamw.step()?])
    }

    /// The memory, for every launch.
    fn memory(&self) -> [&Tensor; 2] {
        [&self.words, &self.norms]
    }

    /// The arguments for gradients that are not clipped. `memory` begins with the addresses of [`memory`](Self::memory).
    fn adamw(&self, memory: &[Pointer]) -> AdamW {
        let at = |word: usize| after(memory[0], word);
        AdamW {
            tensors: at(self.at_tensors()),
            chunks: at(0),
            squares: at(self.at_squares()),
            norms: memory[1],
            result: after(memory[1], self.tensor_count),
            losses: at(self.at_losses()),
            loss_values: after(memory[1], self.tensor_count + 2),
            tensor_count: self.tensor_count,
            chunk_count: self.chunks.len(),
            max_norm: 0.0,
            betas: [0.0; 2],
            epsilon: 0.0,
        }
    }

    /// [`AdamW::result`] of gradients that are not clipped, in the words that begin at `words`.
    fn unclipped(&self, words: Pointer) -> Pointer {
        after(words, self.at_squares() - 2)
    }

    /// Copies the norms of the last launch and its losses, of which there are `losses`, to the host.
    pub(super) fn norms_and_losses(&self, losses: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let words = self.norms.to_vec1::<i64>()?;
        let numbers = |words: &[i64]| words.iter().map(|bits| f64::from_bits(bits.cast_unsigned())).collect();
        let (norms, rest) = words.split_at(self.tensor_count);
        Ok((numbers(norms), numbers(&rest[2..2 + losses])))
    }

    fn at_squares(&self) -> usize {
        self.chunks.len().div_ceil(2) + 2
    }

    fn at_losses(&self) -> usize {
        self.at_squares() + self.chunks.len()
    }

    fn at_tensors(&self) -> usize {
        self.at_losses() + 1 + self.loss_room
    }
}

/// The address this many words of 64 bits after another.
fn after(address: Pointer, words: usize) -> Pointer {
    Pointer(address.0 + (words * size_of::<u64>()) as u64)
}

/// Candle has no u64.
fn signed(words: &[u64]) -> Vec<i64> {
    words.iter().map(|word| word.cast_signed()).collect()
}
