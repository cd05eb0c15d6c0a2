use candle_core::{CudaStorage, Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{ActivationKind, BiasActivation, Pointer};

use super::node::node;
use crate::Activation;

/// The activation of every element.
pub(crate) fn activation(xs: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let activation = match activation {
        Activation::Gelu => ActivationKind::Gelu,
        Activation::QuickGelu => ActivationKind::QuickGelu,
        Activation::GeluTanh => ActivationKind::GeluTanh,
        Activation::Silu => ActivationKind::Silu,
    };
    let xs = xs.contiguous()?;
    let ys = run(&kernels, activation, &xs, None)?;
    let x = xs.detach();
    let backward =
        move |dys: &Tensor| Ok(Kernels::tensor(run(&kernels, activation, &x, Some(dys))?, x.shape()));
    node("activation", &xs, ys, xs.shape(), backward).map(Some)
}

/// The values, or the gradients where `dys` are given.
fn run(
    kernels: &Kernels,
    activation: ActivationKind,
    xs: &Tensor,
    dys: Option<&Tensor>,
) -> Result<CudaStorage> {
    let columns = xs.dims().last().copied().unwrap_or(1).max(1);
    let rows = xs.elem_count() / columns;
    let mut ys = kernels.activations(xs.elem_count())?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let operation = BiasActivation { xs: inputs[0], bias: Pointer::NULL, rows, columns, activation };
        Ok(vec![match dys {
            None => operation.forward(kernels.element(), outputs[0])?,
            Some(_) => operation.backward(kernels.element(), inputs[1], outputs[0])?,
        }])
    };
    let inputs: Vec<&Tensor> = [xs].into_iter().chain(dys).collect();
    // SAFETY: all tensors have as many elements.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [&mut ys], launches) }?;
    Ok(ys)
}
