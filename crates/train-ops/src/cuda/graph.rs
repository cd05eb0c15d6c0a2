use std::fmt;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::{Device, Result, Tensor, bail};

use cuda_kernels::device::{Capture, Kernels};

use super::inputs::{self, Inputs};
use super::keys::{KeysOfPasses, PassKeys};
use super::tensor_copy::{copies, copy_tensors};
use crate::device::trim_pool;
use crate::{ForwardContext, Run};

/// Work on an NVIDIA GPU that was recorded once, as a CUDA graph, and is repeated by one call of the driver, without the time that its
/// launches take on the host.
///
/// The work's inputs are the tensors that existed before it was recorded, at the places in memory that they had: replace their values
/// with [`Var::set`](candle_core::Var::set) or [`Tensor::slice_set`]. Dropout draws from the keys of each
/// [`replay`](Self::replay)'s pass. The targets of [`cross_entropy_sum`](crate::cross_entropy_sum) and
/// [`linear_cross_entropy_sum`](crate::linear_cross_entropy_sum), and other [`host_numbers`](crate::host_numbers), are arguments of a
/// replay. Nothing else may come from the host but constants of at most 4 KiB, which candle keeps in memory that belongs to the thread
/// that recorded: the graph may be replayed by other threads, but not after that thread has ended.
pub struct DeviceGraph {
    results: Vec<Tensor>,
    keys: Option<PassKeys>,
    /// The tensors of `host_numbers`, in the order of the work.
    numbers: Vec<Tensor>,
    graph: CudaGraph,
}

// SAFETY: a graph may be used by any thread, but by one at a time: it is not `Sync`.
#[allow(unsafe_code)]
unsafe impl Send for DeviceGraph {}

impl DeviceGraph {
    /// Whether work on this device can be recorded: on an NVIDIA GPU with compute capability 8.0 or newer.
    pub fn is_supported(device: &Device) -> bool {
        Kernels::are_for(device)
    }

    /// Records `work` on a device of [`cuda_device`](crate::cuda_device), with at most one forward pass, and returns its results at
    /// each replay. It runs as always, which loads kernels and copies constants, and then it is recorded.
    ///
    /// No other thread may use the device meanwhile: it has one stream, and what other threads queue on it would be recorded too, and
    /// not computed. If `work` panics, the recording ends and the device can be used as before.
    ///
    /// # Errors
    /// The errors of `work`; if it reads from the device, frees a tensor from before, or copies new values from the host; if a result
    /// is not f32, bf16, u32 or i64; or if graphs are not [supported](Self::is_supported).
    pub fn record(device: &Device, mut work: impl FnMut(Run) -> Result<Vec<Tensor>>) -> Result<Self> {
        if !Self::is_supported(device) {
            bail!(
                "graphs need an NVIDIA GPU of compute capability 8.0 or newer, not {:?}",
                device.location()
            );
        }
        let device = device.as_cuda_device()?;
        let _constants = device.enable_cuda_graph_htod_cache();
        let of_passes = KeysOfPasses::forget();
        let inputs = Inputs::collect();
        let results = copies(&work(Run::First)?)?;
        let numbers = inputs.reuse();
        let keys = of_passes.gather(device)?;
        device.cuda_stream().synchronize().w()?;
        // The graph has its own memory, so that of the first run would stay unused.
        trim_pool(device)?;
        let capture = Capture::begin(device)?;
        // All memory that the work allocates is freed in the recording. Results that live on there would keep the memory of one graph
        // from the others, so that the driver would have to map it anew when graphs take turns.
        copy_tensors(&work(Run::Recorded)?, &results)?;
        match capture.end()? {
            Some(graph) => Ok(Self { results, keys, numbers, graph }),
            None => bail!("the work of a graph was not recorded"),
        }
    }

    /// Queues the work, with the dropout of the pass `ctx` and with `numbers` in place of those that it took from the host: all of
    /// them, one after the other. A target may be [`NO_TARGET`](crate::NO_TARGET). The results have the values of this replay until the
    /// next.
    ///
    /// # Errors
    /// If the pass has another number of samples than the recorded one, or there are more or fewer numbers.
    pub fn replay(&self, ctx: &ForwardContext, numbers: &[u32]) -> Result<&[Tensor]> {
        inputs::replace(&self.numbers, numbers)?;
        if let (Some(keys), Some(samples)) = (&self.keys, ctx.sample_keys()) {
            keys.replace(samples)?;
        }
        self.graph.launch().w()?;
        Ok(&self.results)
    }
}

impl fmt::Debug for DeviceGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceGraph").field("results", &self.results.len()).finish_non_exhaustive()
    }
}
