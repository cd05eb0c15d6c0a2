use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Tensor,
};

/// Proxies for the parameters of an operation that has more parameters than the three arguments of a candle
/// operation.
///
/// Each parameter gets a scalar proxy node in the graph. The operation takes all proxies as one argument. Its
/// backward pass writes the parameters' gradients to a shared list, and the proxies' own backward passes return
/// them from there. Nothing is copied.
pub(crate) struct GradProxies {
    /// The argument: a 0 for each parameter, or a single 0 if there are none.
    pub(crate) argument: Tensor,
    gradients: Gradients,
}

/// The gradients of the parameters, between the operation's backward pass and those of the proxies.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

impl GradProxies {
    /// Proxies for parameters on one device.
    pub(crate) fn new(parameters: &[Tensor], device: &Device) -> Result<Self> {
        let gradients: Gradients = Arc::new(Mutex::new(vec![None; parameters.len()]));
        let proxies = (parameters.iter().enumerate())
            .map(|(index, parameter)| parameter.apply_op1(GradProxy { index, gradients: gradients.clone() }))
            .collect::<Result<Vec<_>>>()?;
        let argument = match proxies.is_empty() {
            true => Tensor::zeros(1, DType::F32, device)?,
            false => Tensor::cat(&proxies, 0)?,
        };
        Ok(Self { argument, gradients })
    }

    /// The list to which the operation's backward pass writes the gradients.
    pub(crate) fn sink(&self) -> GradSink {
        GradSink(self.gradients.clone())
    }
}

/// Receives the gradients of the parameters, in the order of the parameters.
pub(crate) struct GradSink(Gradients);

impl GradSink {
    /// Delivers the gradients. Returns the gradient of the proxies, which are constants: zero.
    pub(crate) fn deliver(&self, gradients: Vec<Option<Tensor>>, proxies: &Tensor) -> Result<Option<Tensor>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        proxies.track_op().then(|| proxies.zeros_like()).transpose()
    }
}

struct GradProxy {
    index: usize,
    gradients: Gradients,
}

impl CustomOp1 for GradProxy {
    fn name(&self) -> &'static str {
        "grad_proxy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn cuda_fwd(&self, parameter: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((parameter.device().zeros_impl(&Shape::from(1), DType::F32)?, Shape::from(1)))
    }

    fn metal_fwd(&self, parameter: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        Ok((parameter.device().zeros_impl(&Shape::from(1), DType::F32)?, Shape::from(1)))
    }

    /// A parameter without a gradient gets none, instead of zeros, so that a check for unused parameters finds
    /// it.
    fn bwd(&self, _parameter: &Tensor, _proxy: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(gradients.get_mut(self.index).and_then(Option::take))
    }
}
