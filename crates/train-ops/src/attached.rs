use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

/// A value computed outside the graph, with a backward function of our own: how an operation gets just the gradient
/// that is needed on devices where its forward pass is made of candle's operations.
pub(crate) struct Attached<F> {
    name: &'static str,
    value: Tensor,
    backward: F,
}

impl<F> Attached<F>
where
    F: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    /// `value` must be contiguous and not tracked; `backward` maps its gradient to the argument's.
    pub(crate) fn new(name: &'static str, value: Tensor, backward: F) -> Self {
        Self { name, value, backward }
    }
}

impl<F> CustomOp1 for Attached<F>
where
    F: Fn(&Tensor) -> Result<Tensor>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _arg: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cpu(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }

    fn cuda_fwd(&self, _arg: &CudaStorage, _layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Cuda(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }

    fn metal_fwd(&self, _arg: &MetalStorage, _layout: &Layout) -> Result<(MetalStorage, Shape)> {
        match &*self.value.storage_and_layout().0 {
            Storage::Metal(storage) => {
                Ok((storage.try_clone(self.value.layout())?, self.value.shape().clone()))
            }
            _ => bail!("{}: value and argument are on different devices", self.name),
        }
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&grad.detach()).map(Some)
    }
}
