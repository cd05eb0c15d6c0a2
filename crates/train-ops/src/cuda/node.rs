//! A node of candle's graph whose value was computed by our kernels.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};

/// A node with the value `value` of shape `shape` and the argument `argument`; `backward` maps the gradient of the value, which is
/// contiguous, to the argument's.
pub(super) fn node<F>(
    name: &'static str,
    argument: &Tensor,
    value: CudaStorage,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    argument.apply_op1(Node { name, value: Mutex::new(Some(value)), shape: shape.into(), backward })
}

/// A node with two arguments. `backward` also gets which of them need a gradient.
pub(super) fn node2<F>(
    name: &'static str,
    [first, second]: [&Tensor; 2],
    value: CudaStorage,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, [bool; 2]) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
{
    first.apply_op2(second, Node { name, value: Mutex::new(Some(value)), shape: shape.into(), backward })
}

/// A node with three arguments. `backward` gets the value, its gradient, and which arguments need a gradient.
pub(super) fn node3<F>(
    name: &'static str,
    [first, second, third]: [&Tensor; 3],
    value: CudaStorage,
    shape: impl Into<Shape>,
    backward: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, [bool; 3]) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
{
    first.apply_op3(
        second,
        third,
        Node { name, value: Mutex::new(Some(value)), shape: shape.into(), backward },
    )
}

struct Node<F> {
    name: &'static str,
    /// Taken by the one call of `cuda_fwd`: a copy would cost as much as many of the operations.
    value: Mutex<Option<CudaStorage>>,
    shape: Shape,
    backward: F,
}

impl<F> Node<F> {
    fn take(&self) -> Result<(CudaStorage, Shape)> {
        match self.value.lock().ok().and_then(|mut value| value.take()) {
            Some(value) => Ok((value, self.shape.clone())),
            None => bail!("{}: the value was taken already", self.name),
        }
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor> + Send + Sync> CustomOp1 for Node<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: value and argument are on different devices", self.name)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, _argument: &Tensor, _value: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&grad.contiguous()?).map(Some)
    }
}

impl<F: Fn(&Tensor, [bool; 2]) -> Result<[Option<Tensor>; 2]> + Send + Sync> CustomOp2 for Node<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{}: value and arguments are on different devices", self.name)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        _value: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [of_first, of_second] =
            (self.backward)(&grad.contiguous()?, [first.track_op(), second.track_op()])?;
        Ok((of_first, of_second))
    }
}

impl<F: Fn(&Tensor, &Tensor, [bool; 3]) -> Result<[Option<Tensor>; 3]> + Send + Sync> CustomOp3 for Node<F> {
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
        bail!("{}: value and arguments are on different devices", self.name)
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
        self.take()
    }

    fn bwd(
        &self,
        first: &Tensor,
        second: &Tensor,
        third: &Tensor,
        value: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let needed = [first, second, third].map(Tensor::track_op);
        let [of_first, of_second, of_third] = (self.backward)(value, &grad.contiguous()?, needed)?;
        Ok((of_first, of_second, of_third))
    }
}
