use candle_core::{CudaStorage, Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{ActivationKind, BiasActivation, Pointer};

use super::node::node;
use crate::Activation;

/// The activation of every element.
pub(crate) fn activation(xs: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let kind = kind_of(activation);
    let xs = xs.contiguous()?;
    let ys = activate(&kernels, kind, &xs, None, None)?;
    let x = xs.detach();
    let backward =
        move |dys: &Tensor| Ok(Kernels::tensor(activate(&kernels, kind, &x, None, Some(dys))?, x.shape()));
    node("activation", &xs, ys, xs.shape(), backward).map(Some)
}

/// The kernels' name of an activation.
pub(super) fn kind_of(activation: Activation) -> ActivationKind {
    match activation {
        Activation::Gelu => ActivationKind::Gelu,
        Activation::QuickGelu => ActivationKind::QuickGelu,
        Activation::GeluTanh => ActivationKind::GeluTanh,
        Activation::Silu => ActivationKind::Silu,
    }
}

/// The values `f(xs + bias)`, or the gradients `f'(xs + bias) ∘ dys` where `dys` are given. The bias has an element for each of the
/// last dimension of `xs`.
pub(super) fn activate(
    kernels: &Kernels,
    activation: ActivationKind,
    xs: &Tensor,
    bias: Option<&Tensor>,
    dys: Option<&Tensor>,
) -> Result<CudaStorage> {
    let columns = xs.dims().last().copied().unwrap_or(1).max(1);
    let rows = xs.elem_count() / columns;
    let mut ys = kernels.activations(xs.elem_count())?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let mut inputs = inputs.iter().copied();
        let mut next = |is_there: bool| if is_there { inputs.next() } else { None }.unwrap_or(Pointer::NULL);
        let (xs, bias, of_ys) = (next(true), next(bias.is_some()), next(dys.is_some()));
        let operation = BiasActivation { xs, bias, rows, columns, activation };
        Ok(vec![match dys {
            None => operation.forward(kernels.element(), outputs[0])?,
            Some(_) => operation.backward(kernels.element(), of_ys, outputs[0])?,
        }])
    };
    let inputs: Vec<&Tensor> = [xs].into_iter().chain(bias).chain(dys).collect();
    // SAFETY: the bias has an element for each column, and all other tensors have as many elements.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [&mut ys], launches) }?;
    Ok(ys)
}
