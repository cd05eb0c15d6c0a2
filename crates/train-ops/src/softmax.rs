use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Tensor};
use cpu_kernels::Isa;
use rayon::prelude::*;

use crate::attached::attach;
use crate::{Error, Result, host};

/// Softmax over the last dimension, differentiable: `y = exp(x) / Σ exp(x)` and `dx = y (dy - Σ y dy)`.
///
/// The result is 0 where an element is minus infinity, so a mask may be added before. Types of 16 bits are
/// computed in f32.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let xs = Tensor::new(&[0f32, f32::NEG_INFINITY, 0.], &Device::Cpu)?;
/// assert_eq!(train_ops::softmax_last_dim(&xs)?.to_vec1::<f32>()?, [0.5, 0., 0.5]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If `xs` is a scalar or its last dimension is 0.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    if xs.dims().last().is_none_or(|last| *last == 0) {
        return Err(Error::Shape {
            path: "input of softmax".to_owned(),
            expected: "(..., n) with n at least 1".to_owned(),
            got: xs.dims().to_vec(),
        });
    }
    if host::is_host_f32(xs) {
        return Ok(xs.contiguous()?.apply_op1(SoftmaxOp { isa: host::isa()? })?);
    }
    let (given, dtype) = (xs.dtype(), if xs.dtype() == DType::F64 { DType::F64 } else { DType::F32 });
    let x = xs.detach().to_dtype(dtype)?;
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    let probabilities = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
    let ys = probabilities.to_dtype(given)?;
    Ok(attach("softmax", xs, ys, move |dys| {
        let weighted = (&probabilities * dys.to_dtype(dtype)?)?;
        let mean = weighted.sum_keepdim(D::Minus1)?;
        (weighted - probabilities.broadcast_mul(&mean)?)?.to_dtype(given)
    })?)
}

/// Values of a task: enough to outweigh its scheduling, few enough to stay in the cache.
const CHUNK: usize = 16 * 1024;

struct SoftmaxOp {
    isa: Isa,
}

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut ys = host::slice(storage, layout)?.to_vec();
        let row = layout.shape().dims().last().map_or(1, |last| *last);
        ys.par_chunks_mut(task(row)).for_each(|rows| {
            rows.chunks_exact_mut(row).for_each(|values| cpu_kernels::softmax(self.isa, values, row));
            // The kernel's exp is never below the smallest normal number, so masked elements are set to 0;
            // otherwise they would slow down the product that follows.
            rows.iter_mut().filter(|y| **y < 2.0 * f32::MIN_POSITIVE).for_each(|y| *y = 0.0);
        });
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (grad_view, ys_view) = (grad.storage_and_layout(), ys.storage_and_layout());
        let (mut dxs, ys) = (host::values(&grad_view)?.to_vec(), host::values(&ys_view)?);
        let row = xs.dims().last().map_or(1, |last| *last);
        (dxs.par_chunks_mut(task(row)), ys.par_chunks(task(row))).into_par_iter().for_each(|(dxs, ys)| {
            for (dxs, ys) in dxs.chunks_exact_mut(row).zip(ys.chunks_exact(row)) {
                cpu_kernels::softmax_gradient(self.isa, ys, ys, dxs, row, 1.0);
            }
        });
        Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
    }
}

/// Values of whole rows of `row` values that a task works on.
fn task(row: usize) -> usize {
    CHUNK.div_ceil(row) * row
}
