use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Storage, Tensor, Var, bail,
};

use crate::backward;
use crate::grad_proxy::{GradProxies, GradSink};

/// Runs a segment of a model without keeping its intermediate results, and runs it again in the backward pass:
/// gradient checkpointing (Chen, Xu, Zhang and Guestrin, 2016, <https://arxiv.org/abs/1604.06174>). Values and
/// gradients are those of `segment(xs)`; only its input and its result are kept in memory, and the segment
/// takes one more forward pass.
///
/// `segment` must compute the same result every time, including dropout; with a captured
/// [`ForwardContext`](crate::ForwardContext) it does. `parameters` are the variables that it uses. They are not
/// copied, and a variable that is not among them gets no gradient. `xs` and the result are single tensors on
/// one device. There is no second derivative.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use train_ops::recompute;
///
/// let weight = Var::new(&[[2f32, 0.], [0., 3.]], &Device::Cpu)?;
/// let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu)?;
/// let captured = weight.clone();
/// let ys = recompute(&[weight.as_tensor().clone()], &xs, move |xs| xs.matmul(&captured)?.sqr())?;
/// assert_eq!(ys.to_vec2::<f32>()?, [[4., 9.]]);
/// let gradients = ys.sum_all()?.backward()?;
/// let gradient = gradients.get(&weight).map(|gradient| gradient.to_vec2::<f32>()).transpose()?;
/// assert_eq!(gradient, Some(vec![vec![4., -6.], vec![-4., 6.]]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// The errors of `segment`: unchanged in this first run, wrapped in candle's error in the backward pass. Also
/// an error if one of `parameters` is not a variable but computed from others, because its gradient would not
/// reach them.
pub fn recompute<F, E>(parameters: &[Tensor], xs: &Tensor, segment: F) -> std::result::Result<Tensor, E>
where
    F: Fn(&Tensor) -> std::result::Result<Tensor, E> + Send + Sync + 'static,
    E: std::error::Error + From<candle_core::Error> + Send + Sync + 'static,
{
    // The graph of this first run is dropped here, with everything that it holds.
    let value = segment(&xs.detach())?.detach().contiguous()?;
    if parameters.is_empty() && !xs.track_op() {
        return Ok(value);
    }
    if let Some(computed) = parameters.iter().find(|tensor| tensor.track_op() && !tensor.is_variable()) {
        let message =
            format!("a parameter of a recomputed segment is not a variable, but computed: {computed:?}");
        return Err(candle_core::Error::Msg(message).into());
    }
    let proxies = GradProxies::new(parameters, xs.device())?;
    let operation = Recompute {
        segment: move |xs: &Tensor| segment(xs).map_err(candle_core::Error::wrap),
        parameters: parameters.to_vec(),
        sink: proxies.sink(),
        value: Mutex::new(Some(value)),
    };
    Ok(xs.contiguous()?.apply_op2(&proxies.argument, operation)?)
}

struct Recompute<F> {
    segment: F,
    parameters: Vec<Tensor>,
    sink: GradSink,
    /// The result of the first run, until it is returned: the graph should not keep it twice.
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
        proxies: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // The gradient of `Σ segment(x) · g` is `g` carried back through the segment.
        let input = if xs.track_op() { Var::from_tensor(&xs.detach())?.into_inner() } else { xs.detach() };
        let ys = (self.segment)(&input)?;
        let mut store = backward(&(ys * grad.detach())?.sum_all()?)?;
        let of_parameters = self.parameters.iter().map(|parameter| store.remove(parameter)).collect();
        let of_input = match store.remove(&input) {
            None if xs.track_op() => Some(xs.zeros_like()?),
            gradient => gradient,
        };
        Ok((of_input, self.sink.deliver(of_parameters, proxies)?))
    }
}
