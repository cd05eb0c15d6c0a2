use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::dropout::Mask;
use crate::{Error, Pass, Result, host};

/// Layer normalisation over the last dimension (Ba, Kiros and Hinton, 2016; as `torch.nn.LayerNorm`):
///
/// ```text
/// y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        var without Bessel's correction
/// ```
///
/// Unlike `candle_nn::LayerNorm` it is differentiable, in `x` and, where they track gradients, `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    path: String,
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// From a weight and a bias of shape `(features)`.
    pub fn new(path: &str, weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        if weight.rank() != 1 || weight.dims() != bias.dims() || weight.elem_count() == 0 {
            return Err(Error::Shape {
                path: format!("{path}.bias"),
                expected: format!("the shape of {path}.weight, {:?}, of rank 1 and not empty", weight.dims()),
                got: bias.dims().to_vec(),
            });
        }
        Ok(Self { path: path.to_owned(), weight, bias, eps: eps as f32 })
    }

    /// Size of the last dimension of the input.
    pub(crate) fn features(&self) -> usize {
        self.weight.elem_count()
    }

    /// Normalises `xs` of shape `(..., features)`.
    pub fn forward(&self, xs: &Tensor, pass: &Pass) -> Result<Tensor> {
        let features = self.weight.elem_count();
        if xs.dims().last() != Some(&features) {
            return Err(Error::Shape {
                path: format!("input of {}", self.path),
                expected: format!("(..., {features})"),
                got: xs.dims().to_vec(),
            });
        }
        let (weight, bias) = (pass.parameter(&self.weight), pass.parameter(&self.bias));
        if host::is_host_f32(xs) {
            let op = LayerNormOp { eps: self.eps, statistics: OnceLock::new() };
            return Ok(xs.contiguous()?.apply_op3(&weight, &bias, op)?);
        }
        let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + f64::from(self.eps))?.sqrt()?)?;
        let (weight, bias) = (weight.to_dtype(xs.dtype())?, bias.to_dtype(xs.dtype())?);
        Ok(normed.broadcast_mul(&weight)?.broadcast_add(&bias)?)
    }
}

impl LayerNorm {
    /// The weight and the bias where they are trained, for [`recompute`](crate::recompute).
    pub fn parameters(&self) -> Vec<Tensor> {
        [&self.weight, &self.bias].into_iter().filter(|tensor| tensor.track_op()).cloned().collect()
    }

    /// Normalises rows of host memory. Returns what the backward pass needs.
    pub(crate) fn forward_rows(&self, xs: &[f32], ys: &mut [f32]) -> candle_core::Result<Statistics> {
        let (weight, bias) = (self.weight.storage_and_layout(), self.bias.storage_and_layout());
        Ok(normalise_rows(xs, host::values(&weight)?, host::values(&bias)?, self.eps, ys))
    }

    /// Adds the gradient of the rows `xs` to `dxs`; see [`LayerNormOp`].
    pub(crate) fn add_backward_rows(
        &self,
        xs: &[f32],
        statistics: &Statistics,
        dys: &[f32],
        dxs: &mut [f32],
    ) -> candle_core::Result<()> {
        let weight = self.weight.storage_and_layout();
        let weight = host::values(&weight)?;
        let size = ROWS * weight.len();
        (dxs.par_chunks_mut(size), xs.par_chunks(size), dys.par_chunks(size), statistics.par_chunks(ROWS))
            .into_par_iter()
            .for_each_init(
                || vec![0.0; size],
                |gradient, (dxs, xs, dys, statistics)| {
                    let gradient = &mut gradient[..xs.len()];
                    normalise_backward(xs, weight, dys, statistics, gradient);
                    dxs.iter_mut().zip(gradient).for_each(|(dx, gradient)| *dx += *gradient);
                },
            );
        Ok(())
    }

    /// Makes `residual + mask ∘ sums` of `sums` and normalises that, the end of a block in BERT.
    pub(crate) fn forward_residual_rows(
        &self,
        sums: &mut [f32],
        residual: &[f32],
        mask: Option<&Mask>,
        ys: &mut [f32],
    ) -> candle_core::Result<Statistics> {
        let (weight, bias) = (self.weight.storage_and_layout(), self.bias.storage_and_layout());
        let (weight, bias) = (host::values(&weight)?, host::values(&bias)?);
        let (features, size) = (weight.len(), ROWS * weight.len());
        let mut statistics = vec![[0.0; 2]; sums.len() / features];
        (
            (ys.par_chunks_mut(size), statistics.par_chunks_mut(ROWS)),
            (sums.par_chunks_mut(size), residual.par_chunks(size)),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(task, ((ys, statistics), (sums, residual)))| {
                add_masked(sums, residual, mask, task * ROWS, features);
                normalise(sums, weight, bias, self.eps, ys, statistics);
            });
        Ok(statistics)
    }

    /// The gradient of the sums of [`forward_residual_rows`](Self::forward_residual_rows), which is that of the residual,
    /// to `dsums`, and that of what the mask was applied to, to `dxs`.
    pub(crate) fn backward_residual_rows(
        &self,
        sums: &[f32],
        statistics: &Statistics,
        mask: Option<&Mask>,
        dys: &[f32],
        (dsums, dxs): (&mut [f32], &mut [f32]),
    ) -> candle_core::Result<()> {
        let weight = self.weight.storage_and_layout();
        let weight = host::values(&weight)?;
        let (features, size) = (weight.len(), ROWS * weight.len());
        (
            (dsums.par_chunks_mut(size), dxs.par_chunks_mut(size)),
            (sums.par_chunks(size), dys.par_chunks(size), statistics.par_chunks(ROWS)),
        )
            .into_par_iter()
            .enumerate()
            .for_each(|(task, ((dsums, dxs), (sums, dys, statistics)))| {
                normalise_backward(sums, weight, dys, statistics, dsums);
                dxs.copy_from_slice(dsums);
                apply_mask(dxs, mask, task * ROWS, features);
            });
        Ok(())
    }
}

/// Mean and `1 / sqrt(var + eps)` of each row.
pub(crate) type Statistics = Vec<[f32; 2]>;

/// Multiplies rows of `features`, the first of which is number `first`, by their mask.
pub(crate) fn apply_mask(rows: &mut [f32], mask: Option<&Mask>, first: usize, features: usize) {
    let Some(mask) = mask else { return };
    for (index, row) in rows.chunks_exact_mut(features).enumerate() {
        mask.apply_part(first + index, 0, row);
    }
}

/// `sums = residual + mask ∘ sums`.
pub(crate) fn add_masked(
    sums: &mut [f32],
    residual: &[f32],
    mask: Option<&Mask>,
    first: usize,
    features: usize,
) {
    apply_mask(sums, mask, first, features);
    sums.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual);
}

/// Normalises rows side by side.
fn normalise_rows(xs: &[f32], weight: &[f32], bias: &[f32], eps: f32, ys: &mut [f32]) -> Statistics {
    let size = ROWS * weight.len();
    let mut statistics = vec![[0.0; 2]; xs.len() / weight.len()];
    (ys.par_chunks_mut(size), xs.par_chunks(size), statistics.par_chunks_mut(ROWS))
        .into_par_iter()
        .for_each(|(ys, xs, statistics)| normalise(xs, weight, bias, eps, ys, statistics));
    statistics
}

/// Rows that one task normalises.
pub(crate) const ROWS: usize = 16;

struct LayerNormOp {
    eps: f32,
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
        let _ = self.statistics.set(normalise_rows(xs, weight, bias, self.eps, &mut ys));
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
                .for_each(|(dxs, xs, dys, statistics)| normalise_backward(xs, w, dys, statistics, dxs));
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

/// `Σ f(x)` in 16 lanes, which compilers vectorise and which rounds less than a running sum.
#[inline(always)]
fn sum_of(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_of2(xs, xs, |x, _| f(x))
}

/// `Σ f(x, y)` in 16 lanes.
#[inline(always)]
fn sum_of2(xs: &[f32], ys: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let (xs, xs_rest) = xs.as_chunks::<16>();
    let (ys, ys_rest) = ys.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for (xs, ys) in xs.iter().zip(ys) {
        for lane in 0..16 {
            lanes[lane] += f(xs[lane], ys[lane]);
        }
    }
    let rest: f32 = xs_rest.iter().zip(ys_rest).map(|(&x, &y)| f(x, y)).sum();
    lanes.iter().sum::<f32>() + rest
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn normalise(
    xs: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    ys: &mut [f32],
    statistics: &mut [[f32; 2]],
) {
    let n = weight.len();
    for ((x, y), statistics) in xs.chunks_exact(n).zip(ys.chunks_exact_mut(n)).zip(statistics) {
        let mean = sum_of(x, |x| x) / n as f32;
        let variance = sum_of(x, |x| (x - mean) * (x - mean)) / n as f32;
        let rstd = 1.0 / (variance + eps).sqrt();
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * rstd * w + b;
        }
        *statistics = [mean, rstd];
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn normalise_backward(xs: &[f32], weight: &[f32], dys: &[f32], statistics: &[[f32; 2]], dxs: &mut [f32]) {
    let n = weight.len();
    for (((x, dy), dx), [mean, rstd]) in
        xs.chunks_exact(n).zip(dys.chunks_exact(n)).zip(dxs.chunks_exact_mut(n)).zip(statistics)
    {
        for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
            *dx = dy * w;
        }
        let mean_g = sum_of(dx, |g| g) / n as f32;
        let mean_gx = sum_of2(dx, x, |g, x| g * (x - mean) * rstd) / n as f32;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = (*dx - mean_g - (x - mean) * rstd * mean_gx) * rstd;
        }
    }
}
