use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Storage, Tensor, Var, bail,
};

/// Runs a segment of a model without keeping what it computes on the way, and runs it again in the backward pass:
/// gradient checkpointing (Chen, Xu, Zhang and Guestrin, 2016). Values and gradients are those of `segment(xs)`; memory
/// is that of its input and its result, for the price of one more forward pass.
///
/// `segment` must compute the same every time, dropout included, so its randomness has to be a function of what it
/// captures. `parameters` are the variables that it uses; the gradient of one that is not among them is lost.
/// `xs` and the result are single tensors of one device. A second derivative is an error.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use trainer_core::recompute;
///
/// let weight = Var::new(&[[2f32, 0.], [0., 3.]], &Device::Cpu)?;
/// let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu)?;
/// let captured = weight.clone();
/// let ys = recompute(&[weight.clone()], &xs, move |xs| xs.matmul(&captured)?.sqr())?;
/// assert_eq!(ys.to_vec2::<f32>()?, [[4., 9.]]);
/// let gradients = ys.sum_all()?.backward()?;
/// let gradient = gradients.get(&weight).map(|gradient| gradient.to_vec2::<f32>()).transpose()?;
/// assert_eq!(gradient, Some(vec![vec![4., -6.], vec![-4., 6.]]));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn recompute<F>(parameters: &[Var], xs: &Tensor, segment: F) -> Result<Tensor>
where
    F: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    // The graph of this first run is dropped here, and all that it holds with it.
    let value = segment(&xs.detach())?.detach().contiguous()?;
    if parameters.is_empty() && !xs.track_op() {
        return Ok(value);
    }
    // An operation has few arguments, so the parameters become one; the backward pass of the concatenation hands the
    // gradient of the one out to the many.
    let flat =
        parameters.iter().map(|parameter| parameter.as_tensor().flatten_all()).collect::<Result<Vec<_>>>()?;
    let flat =
        if flat.is_empty() { Tensor::zeros(1, xs.dtype(), xs.device())? } else { Tensor::cat(&flat, 0)? };
    let operation = Recompute { segment, parameters: parameters.to_vec(), value: Mutex::new(Some(value)) };
    xs.contiguous()?.apply_op2(&flat, operation)
}

struct Recompute<F> {
    segment: F,
    parameters: Vec<Var>,
    /// What the first run gave, until it is handed on: the graph should not keep it twice.
    value: Mutex<Option<Tensor>>,
}

impl<F> Recompute<F> {
    fn take(&self) -> Result<Tensor> {
        match self.value.lock().ok().and_then(|mut value| value.take()) {
            Some(value) => Ok(value),
            None => bail!("a recomputed segment was run forward twice"),
        }
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor> + Send + Sync> CustomOp2 for Recompute<F> {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let value = self.take()?;
        match &*value.storage_and_layout().0 {
            Storage::Cpu(storage) => Ok((storage.try_clone(value.layout())?, value.shape().clone())),
            _ => bail!("recompute: the segment's result is on another device than its argument"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        match &*value.storage_and_layout().0 {
            Storage::Cuda(storage) => Ok((storage.try_clone(value.layout())?, value.shape().clone())),
            _ => bail!("recompute: the segment's result is on another device than its argument"),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let value = self.take()?;
        match &*value.storage_and_layout().0 {
            Storage::Metal(storage) => Ok((storage.try_clone(value.layout())?, value.shape().clone())),
            _ => bail!("recompute: the segment's result is on another device than its argument"),
        }
    }

    fn bwd(
        &self,
        xs: &Tensor,
        flat: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // The gradient of `Σ segment(x) · g` is `g` carried back through the segment.
        let input = Var::from_tensor(&xs.detach())?;
        let ys = (self.segment)(input.as_tensor())?;
        let gradients = (ys * grad.detach())?.sum_all()?.backward()?;
        let of_input = if xs.track_op() { gradients.get(&input).map(Tensor::detach) } else { None };
        if self.parameters.is_empty() {
            return Ok((of_input, None));
        }
        let of_parameters =
            self.parameters.iter().enumerate().map(|(index, parameter)| match gradients.get(parameter) {
                Some(gradient) => gradient.detach().flatten_all(),
                None => bail!(
                    "no gradient reached parameter {index} of a recomputed segment, {:?}",
                    parameter.dims()
                ),
            });
        let of_parameters = Tensor::cat(&of_parameters.collect::<Result<Vec<_>>>()?, 0)?;
        Ok((of_input, Some(of_parameters.reshape(flat.shape())?)))
    }
}
