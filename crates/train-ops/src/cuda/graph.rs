use std::fmt;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{Device, Result, Tensor, bail};

use cuda_kernels::device::Kernels;

use super::inputs::{self, Inputs};
use super::keys::{self, PassKeys};
use crate::{ForwardContext, Run};

/// Work on an NVIDIA GPU that was recorded once, as a CUDA graph, and is repeated by one call of the driver, without the time that its
/// launches take on the host.
///
/// The work's inputs are the tensors that existed before it was recorded, at the places in memory that they had: replace their values
/// with [`Var::set`](candle_core::Var::set) or [`Tensor::slice_set`]. Dropout draws from the keys of each
/// [`replay`](Self::replay)'s pass. The targets of [`cross_entropy_sum`](crate::cross_entropy_sum) and
/// [`linear_cross_entropy_sum`](crate::linear_cross_entropy_sum), and other [`host_numbers`](crate::host_numbers), are arguments of a
/// replay. Nothing else may come from the host but constants of at most 4 KiB.
pub struct DeviceGraph {
    // Freed before the graph whose memory they have.
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
    /// each replay. It runs as always, which loads kernels and copies constants, then it is recorded, and replayed once. Nothing else
    /// may use the device meanwhile.
    ///
    /// # Errors
    /// The errors of `work`; if it reads from the device, frees a tensor from before, or copies new values from the host; or if the
    /// device is no GPU, or the build has no `fused-cuda`.
    pub fn record(device: &Device, mut work: impl FnMut(Run) -> Result<Vec<Tensor>>) -> Result<Self> {
        let device = device.as_cuda_device()?;
        let stream = device.cuda_stream();
        let _constants = device.enable_cuda_graph_htod_cache();
        keys::forget();
        let inputs = Inputs::collect();
        drop(work(Run::First)?);
        let numbers = inputs.reuse();
        let keys = keys::gather()?;
        stream.synchronize().w()?;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        // Without the graph of operations, whose memory is freed in the recording.
        let results = work(Run::Recorded).map(|results| results.iter().map(Tensor::detach).collect());
        // Memory that a replay allocated and did not free, its results, is freed by the next.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).w();
        keys::forget();
        if results.is_err() {
            // Errors of freeing what was not recorded. That of the work explains why.
            let _ = stream.context().check_err();
        }
        let results = results?;
        let Some(graph) = graph? else { bail!("the work of a graph was not recorded") };
        // The results have no memory before.
        graph.launch().w()?;
        Ok(Self { results, keys, numbers, graph })
    }

    /// Queues the work, with the dropout of the pass `ctx` and with `numbers` in place of those that it took from the host: all of
    /// them, one after the other. A target of `u32::MAX` is none. The results have the values of this replay until the next.
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
