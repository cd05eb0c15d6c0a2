use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::cuda_backend::cudarc::driver::sys::cuDriverGetVersion;
use candle_core::{Device, Result, bail};

use crate::device::Kernels;
use crate::{Element, Error, ptx};

impl Kernels {
    /// Loads one kernel, so that a driver that refuses the kernels of this build gives an error that says what to do about it. The
    /// errors of candle, whose kernels a device loads when it needs them, do not. On devices without kernels this does nothing.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn check(device: &Device) -> Result<()> {
        match Self::on(device, Element::F32) {
            Some(kernels) => kernels.function("cross_entropy", "loss_sum").map(|_| ()),
            None => Ok(()),
        }
    }

    /// A kernel, loaded with the others of its module when it is asked for the first time.
    pub(crate) fn function(&self, module: &str, function: &'static str) -> Result<CudaFunction> {
        let Some(ptx) = ptx::of_module(module) else { bail!("there are no kernels {module}") };
        // Candle has modules of its own, of other names.
        match self.device().get_or_load_custom_func(function, &format!("cuda-kernels {module}"), ptx) {
            Ok(loaded) => Ok(loaded.into_cuda_function()),
            Err(error) => Err(candle_core::Error::wrap(self.not_loaded(function, ptx, &error))),
        }
    }

    /// Why the driver does not load a kernel, with what to compare.
    fn not_loaded(&self, function: &'static str, ptx: &'static str, error: &candle_core::Error) -> Error {
        let unknown = || "unknown".to_owned();
        let capability = self.device().cuda_stream().context().compute_capability();
        let mut version = 0;
        // SAFETY: the driver writes the number, which lives through the call.
        #[allow(unsafe_code)]
        let known = unsafe { cuDriverGetVersion(&mut version) }.result().is_ok();
        Error::Load {
            function,
            reason: error.to_string(),
            capability: capability.map_or_else(|_| unknown(), |(major, minor)| format!("{major}.{minor}")),
            // 12040 is CUDA 12.4.
            driver: if known { format!("{}.{}", version / 1000, version % 1000 / 10) } else { unknown() },
            version: ptx::directive(ptx, ".version"),
            target: ptx::directive(ptx, ".target"),
        }
    }
}
