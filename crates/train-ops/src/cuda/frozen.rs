use candle_core::{Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{ActivationKind, BiasActivation, Pointer};

use super::node::node;
use super::product::product;
use crate::{FrozenLinear, LinearLayer};

/// A frozen layer: the product by cuBLAS, and the bias added in its memory.
pub(crate) fn frozen_linear(xs: &Tensor, layer: &FrozenLinear) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let xs = xs.contiguous()?;
    let (rows, columns) = (xs.elem_count() / layer.in_features(), layer.out_features());
    let mut ys = product(&xs.detach().reshape((rows, layer.in_features()))?, layer)?;
    if let Some(bias) = layer.bias() {
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let activation = ActivationKind::Identity;
            let sum = BiasActivation { xs: outputs[0], bias: inputs[0], rows, columns, activation };
            Ok(vec![sum.forward(kernels.element(), outputs[0])?])
        };
        // SAFETY: the bias has an element for each column of `ys`.
        #[allow(unsafe_code)]
        unsafe { kernels.run(&[bias], &mut [&mut ys], launches) }?;
    }
    let mut shape = xs.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let (layer, in_shape) = (layer.clone(), xs.shape().clone());
    let backward =
        move |dys: &Tensor| layer.backward_tensor(&dys.reshape((rows, columns))?)?.reshape(&in_shape);
    node("frozen_linear", &xs, ys, shape, backward).map(Some)
}
