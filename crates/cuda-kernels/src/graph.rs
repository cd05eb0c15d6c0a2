use std::fmt;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{Result, bail};

use crate::Launch;
use crate::device::Kernels;

/// Launches that were recorded once and are repeated by one call of the driver.
pub struct LaunchGraph(CudaGraph);

// SAFETY: a graph may be used by any thread, but by one at a time: it is not `Sync`.
#[allow(unsafe_code)]
unsafe impl Send for LaunchGraph {}

impl LaunchGraph {
    /// Records launches that have run before, which loaded their kernels. They do not run now.
    ///
    /// # Errors
    /// If the device's stream cannot be recorded, as with CUDA's default stream, or the driver refuses a launch.
    ///
    /// # Safety
    /// The launches must fit the memory whenever the graph is replayed: see [`Launch`].
    #[allow(unsafe_code)]
    pub unsafe fn record(kernels: &Kernels, launches: &[Launch]) -> Result<Self> {
        let stream = kernels.device().cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        // SAFETY: as the caller assures.
        let launched = launches.iter().try_for_each(|launch| unsafe { kernels.launch(launch) });
        // Also after an error, so that the stream is usable again.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).w();
        launched?;
        match graph? {
            Some(graph) => Ok(Self(graph)),
            None => bail!("the launches were not recorded"),
        }
    }

    /// Queues all launches.
    ///
    /// # Errors
    /// If the driver refuses the graph.
    ///
    /// # Safety
    /// As for [`record`](Self::record).
    #[allow(unsafe_code)]
    pub unsafe fn replay(&self) -> Result<()> {
        self.0.launch().w()
    }
}

impl fmt::Debug for LaunchGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchGraph").finish_non_exhaustive()
    }
}
