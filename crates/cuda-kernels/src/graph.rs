use std::fmt;
use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream};
use candle_core::{CudaDevice, Result, bail};

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
        let capture = Capture::begin(kernels.device())?;
        // SAFETY: as the caller assures.
        launches.iter().try_for_each(|launch| unsafe { kernels.launch(launch) })?;
        match capture.end()? {
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

/// The stream of a device while it records what is queued on it, from any thread, instead of running it. Dropping this ends the
/// recording without a graph, so that the stream can be used again after an error or a panic.
pub struct Capture {
    stream: Arc<CudaStream>,
    is_ended: bool,
}

impl Capture {
    /// Begins to record.
    ///
    /// # Errors
    /// If the device's stream cannot be recorded, as with CUDA's default stream.
    pub fn begin(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        Ok(Self { stream, is_ended: false })
    }

    /// The graph of what was recorded; `None` if there is none.
    ///
    /// # Errors
    /// If something was queued that cannot be recorded.
    pub fn end(mut self) -> Result<Option<CudaGraph>> {
        self.end_once()
    }

    fn end_once(&mut self) -> Result<Option<CudaGraph>> {
        self.is_ended = true;
        // Memory that a replay allocated and did not free is freed by the next.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // An error that is kept, such as that of a free, would be returned in place of ending the recording.
        let kept = self.stream.context().check_err();
        let graph = self.stream.end_capture(flags);
        kept.w()?;
        graph.w()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.is_ended {
            // Errors of this recording, of whose failure the caller knows: also those of freeing what was not recorded.
            let _ = self.end_once();
            let _ = self.stream.context().check_err();
        }
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}
