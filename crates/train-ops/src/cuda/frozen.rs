use candle_core::{CudaStorage, Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{ActivationKind, BiasActivation, Pointer};

use super::activation::{activate, kind_of};
use super::node::node;
use super::product::product;
use crate::{Activation, FrozenLinear, LinearLayer};

/// A frozen layer: the product by cuBLAS, and the bias added in its memory.
pub(crate) fn frozen_linear(xs: &Tensor, layer: &FrozenLinear) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let xs = xs.contiguous()?;
    let (rows, columns) = (xs.elem_count() / layer.in_features(), layer.out_features());
    let mut ys = product(&xs.detach().reshape((rows, layer.in_features()))?, layer)?;
    if layer.bias().is_some() {
        finish_in_place(&kernels, &mut ys, layer, rows, ActivationKind::Identity)?;
    }
    let shape = with_columns(&xs, columns);
    let (layer, in_shape) = (layer.clone(), xs.shape().clone());
    let backward =
        move |dys: &Tensor| layer.backward_tensor(&dys.reshape((rows, columns))?)?.reshape(&in_shape);
    node("frozen_linear", &xs, ys, shape, backward).map(Some)
}

/// A frozen layer and the activation of its result: the product by cuBLAS, then the bias and the activation in one launch, in the
/// product's memory unless the backward pass needs the product.
pub(crate) fn activated_linear(
    xs: &Tensor,
    layer: &FrozenLinear,
    activation: Activation,
) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let xs = xs.contiguous()?;
    let (rows, columns) = (xs.elem_count() / layer.in_features(), layer.out_features());
    let mut zs = product(&xs.detach().reshape((rows, layer.in_features()))?, layer)?;
    let (kind, shape) = (kind_of(activation), with_columns(&xs, columns));
    if !xs.track_op() {
        finish_in_place(&kernels, &mut zs, layer, rows, kind)?;
        return Ok(Some(Kernels::tensor(zs, &shape)));
    }
    let zs = Kernels::tensor(zs, &Shape::from((rows, columns)));
    let ys = activate(&kernels, kind, &zs, layer.bias(), None)?;
    let (layer, in_shape) = (layer.clone(), xs.shape().clone());
    let backward = move |dys: &Tensor| {
        let dys = dys.reshape((rows, columns))?;
        let dzs = activate(&kernels, kind, &zs, layer.bias(), Some(&dys))?;
        layer.backward_tensor(&Kernels::tensor(dzs, zs.shape()))?.reshape(&in_shape)
    };
    node("activated_linear", &xs, ys, shape, backward).map(Some)
}

/// `ys = f(ys + bias)` for `rows` products of the layer.
fn finish_in_place(
    kernels: &Kernels,
    ys: &mut CudaStorage,
    layer: &FrozenLinear,
    rows: usize,
    activation: ActivationKind,
) -> Result<()> {
    let columns = layer.out_features();
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let bias = inputs.first().copied().unwrap_or(Pointer::NULL);
        let operation = BiasActivation { xs: outputs[0], bias, rows, columns, activation };
        Ok(vec![operation.forward(kernels.element(), outputs[0])?])
    };
    let bias: Vec<&Tensor> = layer.bias().into_iter().collect();
    // SAFETY: the bias has an element for each column of `ys`.
    #[allow(unsafe_code)]
    unsafe {
        kernels.run(&bias, &mut [ys], launches)
    }
}

/// The shape of `xs` with another last dimension.
fn with_columns(xs: &Tensor, columns: usize) -> Shape {
    let mut dims = xs.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = columns;
    }
    Shape::from(dims)
}
