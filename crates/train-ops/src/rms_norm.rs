use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Shape, Tensor, bail};
use cpu_kernels::{Isa, rms_normalise, rms_normalise_gradient};
use rayon::prelude::*;

use crate::attached::attach3;
use crate::layer_norm::ROWS;
use crate::{Error, Result, host};

/// Root mean square normalisation over the last dimension (Zhang and Sennrich, 2019; as in Llama),
/// differentiable in `xs` and, if it tracks gradients, in `weight`:
///
/// ```text
/// y = x / sqrt(mean(x²) + eps) * weight
/// ```
///
/// `xs` has shape `(..., features)` and `weight` `(features)`. Types of 16 bits are normalised in f32.
///
/// # Errors
/// If the last dimension of `xs` is not that of `weight`, or is 0.
pub fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let features = weight.elem_count();
    if weight.rank() != 1 || features == 0 || xs.dims().last() != Some(&features) {
        return Err(Error::Shape {
            path: "input of rms_norm".to_owned(),
            expected: format!("(..., features) with the features of the weight, {:?}", weight.dims()),
            got: xs.dims().to_vec(),
        });
    }
    if host::is_host_f32(xs) && host::is_host_f32(weight) {
        let op = RmsNormOp { eps: eps as f32, isa: host::isa()?, inverse_rms: OnceLock::new() };
        return Ok(xs.contiguous()?.apply_op2(&weight.contiguous()?, op)?);
    }
    Ok(composed(xs, weight, eps)?)
}

/// The norm composed of candle's operations, for devices and types without a kernel.
fn composed(xs: &Tensor, weight: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    let (given, weight_dtype) = (xs.dtype(), weight.dtype());
    let dtype = if given == DType::F64 { DType::F64 } else { DType::F32 };
    let (x, w) = (xs.detach().to_dtype(dtype)?, weight.detach().to_dtype(dtype)?);
    let rms = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normed = x.broadcast_div(&rms)?;
    // Rounded before the product, as in candle and in transformers.
    let ys = normed.to_dtype(given)?.broadcast_mul(&w.to_dtype(given)?)?;
    // The formulas of `RmsNormOp::bwd`.
    let backward = move |dys: &Tensor, [of_xs, of_weight, _]: [bool; 3]| {
        let dys = dys.to_dtype(dtype)?;
        let dxs = of_xs.then(|| {
            let g = dys.broadcast_mul(&w)?;
            let mean_gx = (&g * &normed)?.mean_keepdim(D::Minus1)?;
            let dxs = (g - normed.broadcast_mul(&mean_gx)?)?;
            dxs.broadcast_div(&rms)?.to_dtype(given)
        });
        let dweight = of_weight
            .then(|| (&dys * &normed)?.reshape(((), w.elem_count()))?.sum(0)?.to_dtype(weight_dtype));
        Ok([dxs.transpose()?, dweight.transpose()?, None])
    };
    attach3("rms_norm", [xs, weight, &weight.detach()], ys, backward)
}

struct RmsNormOp {
    eps: f32,
    isa: Isa,
    /// `1 / sqrt(mean(x²) + eps)` of each row, kept from the forward pass.
    inverse_rms: OnceLock<Vec<f32>>,
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (xs, weight) = (host::slice(xs, xs_layout)?, host::slice(weight, weight_layout)?);
        let size = ROWS * weight.len();
        let (mut ys, mut inverse_rms) = (vec![0.0; xs.len()], vec![0.0; xs.len() / weight.len()]);
        (ys.par_chunks_mut(size), xs.par_chunks(size), inverse_rms.par_chunks_mut(ROWS))
            .into_par_iter()
            .for_each(|(ys, xs, inverse_rms)| rms_normalise(self.isa, xs, weight, self.eps, ys, inverse_rms));
        let _ = self.inverse_rms.set(inverse_rms);
        Ok((CpuStorage::F32(ys), xs_layout.shape().clone()))
    }

    /// With `x̂` the normalised input, `g = dy * weight` and the mean over the features:
    /// `dx = (g - x̂ mean(g x̂)) / rms`, `dweight = Σ dy x̂`.
    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let weight_view = weight.storage_and_layout();
        let (dys, x, w) = (host::values(&grad_view)?, host::values(&xs_view)?, host::values(&weight_view)?);
        let Some(inverse_rms) = self.inverse_rms.get() else { bail!("rms_norm: backward before forward") };
        let size = ROWS * w.len();

        let grad_xs = xs.track_op().then(|| {
            let mut dxs = vec![0.0; x.len()];
            (
                dxs.par_chunks_mut(size),
                x.par_chunks(size),
                dys.par_chunks(size),
                inverse_rms.par_chunks(ROWS),
            )
                .into_par_iter()
                .for_each(|(dxs, xs, dys, inverse_rms)| {
                    rms_normalise_gradient(self.isa, xs, w, dys, inverse_rms, dxs)
                });
            Tensor::from_vec(dxs, xs.shape(), xs.device())
        });
        let grad_weight = weight.track_op().then(|| {
            let mut dw = vec![0.0; w.len()];
            let rows = x.chunks_exact(w.len()).zip(dys.chunks_exact(w.len())).zip(inverse_rms);
            for ((x, dy), inverse_rms) in rows {
                dw.iter_mut().zip(x.iter().zip(dy)).for_each(|(dw, (x, dy))| *dw += dy * x * inverse_rms);
            }
            Tensor::from_vec(dw, weight.shape(), weight.device())
        });
        Ok((grad_xs.transpose()?, grad_weight.transpose()?))
    }
}
