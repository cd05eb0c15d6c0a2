use candle_core::{CudaStorage, Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Mask, Pointer, ResidualNorm, ResidualNormGradient};

use super::node::node;

/// The most features of a row.
const MOST_FEATURES: usize = 4096;

/// Layer norm with a frozen weight and bias.
pub(crate) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    let features = weight.elem_count();
    let trained = weight.track_op() || bias.track_op();
    if trained || weight.dtype() != xs.dtype() || bias.dtype() != xs.dtype() || features > MOST_FEATURES {
        return Ok(None);
    }
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let (ys, statistics) = forward(&kernels, [&xs, &weight, &bias], eps)?;
    let x = xs.detach();
    let backward = move |dys: &Tensor| {
        let dxs = backward(&kernels, [&x, &statistics, &weight, dys])?;
        Ok(Kernels::tensor(dxs, x.shape()))
    };
    node("layer_norm", &xs, ys, xs.shape(), backward).map(Some)
}

/// The result, and mean and `1 / std` of each row.
fn forward(kernels: &Kernels, [xs, weight, bias]: [&Tensor; 3], eps: f32) -> Result<(CudaStorage, Tensor)> {
    let (count, features) = (xs.elem_count(), weight.elem_count());
    let rows = count / features;
    let (mut ys, mut statistics) = (kernels.activations(count)?, kernels.floats(2 * rows)?);
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let norm = ResidualNorm {
            xs: inputs[0],
            residual: Pointer::NULL,
            weight: inputs[1],
            bias: inputs[2],
            sums: Pointer::NULL,
            ys: outputs[0],
            statistics: outputs[1],
            rows,
            features,
            eps,
            mask: Mask::NONE,
        };
        Ok(vec![norm.launch(kernels.element())?])
    };
    // SAFETY: `ys` has the elements of `xs`, and `statistics` two for each row.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&[xs, weight, bias], &mut [&mut ys, &mut statistics], launches) }?;
    Ok((ys, Kernels::tensor(statistics, &Shape::from((rows, 2)))))
}

fn backward(kernels: &Kernels, [xs, statistics, weight, dys]: [&Tensor; 4]) -> Result<CudaStorage> {
    let (count, features) = (xs.elem_count(), weight.elem_count());
    let mut dxs = kernels.activations(count)?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let gradient = ResidualNormGradient {
            sums: inputs[0],
            statistics: inputs[1],
            weight: inputs[2],
            dys: inputs[3],
            dsums_direct: Pointer::NULL,
            dsums: outputs[0],
            dxs: Pointer::NULL,
            rows: count / features,
            features,
            mask: Mask::NONE,
        };
        Ok(vec![gradient.launch(kernels.element())?])
    };
    // SAFETY: `dys` and `dxs` have the elements of `xs`.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&[xs, statistics, weight, dys], &mut [&mut dxs], launches) }?;
    Ok(dxs)
}
