//! Layer normalisation.

mod rows;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Shape, Tensor, bail};
use cpu_kernels::{Isa, normalise_gradient};
use rayon::prelude::*;

use crate::attached::attach3;
use crate::{Dropout, Error, ForwardContext, Result, cuda, host};

use rows::normalise_rows;
pub(crate) use rows::{ROWS, Statistics, add_masked, apply_mask};

/// Layer normalisation over the last dimension (Ba, Kiros and Hinton, 2016; as `torch.nn.LayerNorm`):
///
/// ```text
/// y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        var without Bessel's correction
/// ```
///
/// Unlike `candle_nn::LayerNorm` it is differentiable, in `x` and, if they track gradients, in `weight` and
/// `bias`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    path: String,
    weight: Tensor,
    bias: Tensor,
    eps: f32,
    isa: Isa,
}

impl LayerNorm {
    /// From a weight and a bias of shape `(features)`.
    ///
    /// # Errors
    /// If the shapes differ or have no elements.
    pub fn new(path: &str, weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        if weight.rank() != 1 || weight.dims() != bias.dims() || weight.elem_count() == 0 {
            return Err(Error::Shape {
                path: format!("{path}.bias"),
                expected: format!("the shape of {path}.weight, {:?}, of rank 1 and not empty", weight.dims()),
                got: bias.dims().to_vec(),
            });
        }
        Ok(Self { path: path.to_owned(), weight, bias, eps: eps as f32, isa: host::isa()? })
    }

    /// Size of the last dimension of the input.
    pub(crate) fn features(&self) -> usize {
        self.weight.elem_count()
    }

    /// Normalises `xs` of shape `(..., features)`.
    pub fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let features = self.weight.elem_count();
        if xs.dims().last() != Some(&features) {
            return Err(Error::Shape {
                path: format!("input of {}", self.path),
                expected: format!("(..., {features})"),
                got: xs.dims().to_vec(),
            });
        }
        let (weight, bias) = (ctx.parameter(&self.weight), ctx.parameter(&self.bias));
        if host::is_host_f32(xs) {
            let op = LayerNormOp { eps: self.eps, isa: self.isa, statistics: OnceLock::new() };
            return Ok(xs.contiguous()?.apply_op3(&weight, &bias, op)?);
        }
        if let Some(ys) = cuda::layer_norm(xs, &weight, &bias, self.eps)? {
            return Ok(ys);
        }
        Ok(self.composed(xs, &weight, &bias)?)
    }

    /// The norm of `residual + dropout(xs)`, both `(..., features)`: one operation on a GPU with a kernel for
    /// it.
    pub(crate) fn forward_sum(
        &self,
        residual: &Tensor,
        xs: &Tensor,
        dropout: &Dropout,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        if !xs.device().is_cpu() && xs.dims().last() == Some(&self.features()) {
            let (weight, bias) = (ctx.parameter(&self.weight), ctx.parameter(&self.bias));
            let mask = dropout.mask(xs.dims(), ctx)?;
            if let Some(ys) = cuda::residual_norm([residual, xs], mask.as_ref(), &weight, &bias, self.eps)? {
                return Ok(ys);
            }
        }
        self.forward(&(residual + dropout.forward(xs, ctx)?)?, ctx)
    }

    /// The norm composed of candle's operations, for devices without a kernel.
    fn composed(&self, xs: &Tensor, weight: &Tensor, bias: &Tensor) -> candle_core::Result<Tensor> {
        let (x, dtype, parameter_dtype) = (xs.detach(), xs.dtype(), weight.dtype());
        let [w, b] = [weight, bias].map(|parameter| parameter.detach().to_dtype(dtype));
        let (w, b) = (w?, b?);
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let std = (centred.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.eps))?.sqrt()?;
        let normed = centred.broadcast_div(&std)?;
        let ys = normed.broadcast_mul(&w)?.broadcast_add(&b)?;
        // The formulas of `LayerNormOp::bwd`.
        let backward = move |dys: &Tensor, [of_xs, of_weight, of_bias]: [bool; 3]| {
            let dxs = of_xs.then(|| {
                let g = dys.broadcast_mul(&w)?;
                let mean_g = g.mean_keepdim(D::Minus1)?;
                let mean_gx = (&g * &normed)?.mean_keepdim(D::Minus1)?;
                let along = normed.broadcast_mul(&mean_gx)?;
                g.broadcast_sub(&mean_g)?.sub(&along)?.broadcast_div(&std)
            });
            let over_rows =
                |values: Tensor| values.reshape(((), w.elem_count()))?.sum(0)?.to_dtype(parameter_dtype);
            let dweight = of_weight.then(|| over_rows((dys * &normed)?));
            let dbias = of_bias.then(|| over_rows(dys.clone()));
            Ok([dxs.transpose()?, dweight.transpose()?, dbias.transpose()?])
        };
        attach3("layer_norm", [xs, weight, bias], ys, backward)
    }
}

impl LayerNorm {
    /// The weight and the bias if they are trained, for [`recompute`](crate::recompute).
    pub fn parameters(&self) -> Vec<Tensor> {
        [&self.weight, &self.bias].into_iter().filter(|tensor| tensor.track_op()).cloned().collect()
    }
}

struct LayerNormOp {
    eps: f32,
    isa: Isa,
    /// Mean and `1 / sqrt(var + eps)` of each row, kept from the forward pass.
    statistics: OnceLock<Statistics>,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(xs, xs_layout)?;
        let (weight, bias) = (host::slice(weight, weight_layout)?, host::slice(bias, bias_layout)?);
        let mut ys = vec![0.0; xs.len()];
        let _ = self.statistics.set(normalise_rows(self.isa, xs, weight, bias, self.eps, &mut ys));
        Ok((CpuStorage::F32(ys), xs_layout.shape().clone()))
    }

    /// With `x̂` the normalised input, `g = dy * weight` and means over the features:
    /// `dx = (g - mean(g) - x̂ mean(g x̂)) / std`, `dweight = Σ dy x̂`, `dbias = Σ dy`.
    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let weight_view = weight.storage_and_layout();
        let (dys, x, w) = (host::values(&grad_view)?, host::values(&xs_view)?, host::values(&weight_view)?);
        let Some(statistics) = self.statistics.get() else { bail!("layer_norm: backward before forward") };
        let features = w.len();

        let grad_xs = xs.track_op().then(|| {
            let mut dxs = vec![0.0; x.len()];
            (
                dxs.par_chunks_mut(ROWS * features),
                x.par_chunks(ROWS * features),
                dys.par_chunks(ROWS * features),
                statistics.par_chunks(ROWS),
            )
                .into_par_iter()
                .for_each(|(dxs, xs, dys, statistics)| {
                    normalise_gradient(self.isa, xs, w, dys, statistics, dxs)
                });
            Tensor::from_vec(dxs, xs.shape(), xs.device())
        });

        let (mut grad_weight, mut grad_bias) = (None, None);
        if weight.track_op() || bias.track_op() {
            let (mut dw, mut db) = (vec![0.0; features], vec![0.0; features]);
            for ((x, dy), [mean, rstd]) in
                x.chunks_exact(features).zip(dys.chunks_exact(features)).zip(statistics)
            {
                for (((dw, db), &x), &dy) in dw.iter_mut().zip(&mut db).zip(x).zip(dy) {
                    *dw += dy * (x - mean) * rstd;
                    *db += dy;
                }
            }
            let gradient = |values, of: &Tensor| {
                of.track_op().then(|| Tensor::from_vec(values, features, xs.device())).transpose()
            };
            (grad_weight, grad_bias) = (gradient(dw, weight)?, gradient(db, bias)?);
        }
        Ok((grad_xs.transpose()?, grad_weight, grad_bias))
    }
}
