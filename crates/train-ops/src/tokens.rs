use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendDevice;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Tensor,
};

/// Stand-ins for the parameters of an operation that has more of them than an operation of candle has arguments.
///
/// Each parameter gives a number of the graph, a token. The operation takes all tokens as one argument, and its backward
/// pass leaves the parameters' gradients where the tokens' own backward passes find them. Nothing is copied.
pub(crate) struct Tokens {
    /// The argument: a 0 for each parameter, or one in all.
    pub(crate) argument: Tensor,
    gradients: Gradients,
}

/// The gradients of the parameters, on their way from the operation's backward pass to the graph.
type Gradients = Arc<Mutex<Vec<Option<Tensor>>>>;

impl Tokens {
    /// Of parameters on one device.
    pub(crate) fn new(parameters: &[Tensor], device: &Device) -> Result<Self> {
        let gradients: Gradients = Arc::new(Mutex::new(vec![None; parameters.len()]));
        let tokens = (parameters.iter().enumerate())
            .map(|(index, parameter)| parameter.apply_op1(Token { index, gradients: gradients.clone() }))
            .collect::<Result<Vec<_>>>()?;
        let argument = match tokens.is_empty() {
            true => Tensor::zeros(1, DType::F32, device)?,
            false => Tensor::cat(&tokens, 0)?,
        };
        Ok(Self { argument, gradients })
    }

    /// Where the operation's backward pass leaves the gradients.
    pub(crate) fn mailbox(&self) -> Mailbox {
        Mailbox(self.gradients.clone())
    }
}

/// Takes the gradients of the parameters, in the order of the parameters.
pub(crate) struct Mailbox(Gradients);

impl Mailbox {
    /// Leaves the gradients. Returns the gradient of the tokens: that of a number which nothing depends on.
    pub(crate) fn leave(&self, gradients: Vec<Option<Tensor>>, tokens: &Tensor) -> Result<Option<Tensor>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        tokens.track_op().then(|| tokens.zeros_like()).transpose()
    }
}

struct Token {
    index: usize,
    gradients: Gradients,
}

impl CustomOp1 for Token {
    fn name(&self) -> &'static str {
        "parameter_token"
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

    /// No gradient stays no gradient: a parameter that the operation does not use is found by who looks for that.
    fn bwd(&self, _parameter: &Tensor, _token: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        let mut gradients = self.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(gradients.get_mut(self.index).and_then(Option::take))
    }
}
