//! Fallbacks for devices without kernels. The value is composed of candle's operations outside of the graph,
//! and one node of the graph has a backward pass of our own. Candle's own graph would also compute gradients of
//! constants, and keep them.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

/// A node of the graph with the value `value` and the argument `argument`; `backward` maps the gradient of the
/// value to that of the argument.
pub(crate) fn attach<F>(name: &'static str, argument: &Tensor, value: Tensor, backward: F) -> Result<Tensor>
where
    F: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    let value = value.detach().contiguous()?;
    // A node's value is a copy.
    if argument.track_op() { argument.apply_op1(Attached { name, value, backward }) } else { Ok(value) }
}

/// A node with three arguments. The second argument of `backward` marks those that need a gradient; it returns
/// these gradients.
pub(crate) fn attach3<F>(
    name: &'static str,
    arguments: [&Tensor; 3],
    value: Tensor,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, [bool; 3]) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
{
    let value = value.detach().contiguous()?;
    if !arguments.iter().any(|argument| argument.track_op()) {
        return Ok(value);
    }
    let [first, second, third] = arguments;
    first.apply_op3(second, third, Attached { name, value, backward })
}

struct Attached<F> {
    name: &'static str,
    value: Tensor,
    backward: F,
}

impl<F> Attached<F> {
    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cpu(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }

    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cuda(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }

    fn on_metal(&self) -> Result<(MetalStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Metal(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor> + Send + Sync> CustomOp1 for Attached<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.on_metal()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&grad.detach()).map(Some)
    }
}

impl<F: Fn(&Tensor, [bool; 3]) -> Result<[Option<Tensor>; 3]> + Send + Sync> CustomOp3 for Attached<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.on_metal()
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        third: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let needed = [first, second, third].map(Tensor::track_op);
        let [first, second, third] = (self.backward)(&grad.detach(), needed)?;
        Ok((first, second, third))
    }
}
