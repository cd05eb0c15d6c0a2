use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::kernels::{Start, Term, product};
use crate::linear::Packed;
use crate::math::exp;
use crate::{Error, FrozenLinear, LinearLayer, Pass, Result, host};

/// The sum of the cross entropies of rows of logits, `Σᵢ log Σⱼ exp(logits[i, j]) - logits[i, targets[i]]`.
///
/// `logits` has shape `(n, vocabulary)` and `targets` one id for each row. A sum and not a mean: the mean over an
/// optimizer step is the sum over its batches divided by the number of targets in all of them. Without rows it is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let logits = Tensor::new(&[[0f32, 0.], [9., 9.]], &Device::Cpu)?;
/// let loss = train_ops::cross_entropy_sum(&logits, &[0, 1])?;
/// assert!((loss.to_scalar::<f32>()? - 2.0 * 2f32.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
pub fn cross_entropy_sum(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let &[rows, vocabulary] = logits.dims() else {
        return Err(Error::Shape {
            path: "logits".to_owned(),
            expected: "(targets, vocabulary)".to_owned(),
            got: logits.dims().to_vec(),
        });
    };
    if rows != targets.len() {
        return Err(Error::Shape {
            path: "logits".to_owned(),
            expected: format!("one row for each of {} targets", targets.len()),
            got: logits.dims().to_vec(),
        });
    }
    if let Some(&target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        return Err(Error::Target { target, vocabulary });
    }
    if host::is_host_f32(logits) {
        let op = CrossEntropyOp { targets: targets.to_vec(), log_sum_exp: OnceLock::new() };
        return Ok(logits.contiguous()?.apply_op1(op)?);
    }
    let logits = logits.to_dtype(candle_core::DType::F32)?;
    let log_sum_exp = logits.log_sum_exp(D::Minus1)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let target_logits = logits.gather(&targets, 1)?.squeeze(1)?;
    Ok((log_sum_exp - target_logits)?.sum_all()?)
}

/// `cross_entropy_sum(head(xs), targets)` for `xs` of shape `(n, hidden)`, without keeping the logits where the head is
/// frozen and in host memory.
///
/// A loss is the end of a graph, so the gradient of `xs` is computed with it, from some rows of logits at a time, and the
/// logits are let go. The backward pass only multiplies that gradient by the loss's own.
pub fn linear_cross_entropy_sum(
    xs: &Tensor,
    head: &dyn LinearLayer,
    targets: &[u32],
    pass: &Pass,
) -> Result<Tensor> {
    let vocabulary = head.out_features();
    let packed = head.as_frozen().and_then(|head| Some((head, head.packed_for(xs)?)));
    let fits = xs.dims() == [targets.len(), head.in_features()];
    let known = targets.iter().all(|target| (*target as usize) < vocabulary);
    match packed {
        Some((head, packed)) if fits && known => {
            let op = HeadOp {
                head: head.clone(),
                packed,
                targets: targets.to_vec(),
                differentiable: xs.track_op(),
                grad_xs: OnceLock::new(),
            };
            Ok(xs.contiguous()?.apply_op1(op)?)
        }
        _ => cross_entropy_sum(&head.forward(xs, pass)?, targets),
    }
}

/// Rows whose logits are in memory at a time.
const ROWS: usize = 64;

struct HeadOp {
    head: FrozenLinear,
    packed: Arc<Packed>,
    targets: Vec<u32>,
    differentiable: bool,
    /// Gradient of the loss in `xs`.
    grad_xs: OnceLock<Vec<f32>>,
}

impl CustomOp1 for HeadOp {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(xs, layout)?;
        let (hidden, vocabulary) = (self.head.in_features(), self.head.out_features());
        let mut loss = 0.0;
        let mut grad_xs = Vec::new();
        for (xs, targets) in xs.chunks(ROWS * hidden).zip(self.targets.chunks(ROWS)) {
            let mut logits = self.head.sum(targets.len(), &[Term::new(xs, &self.packed.forward)])?;
            let losses: Vec<f32> = (logits.par_chunks_mut(vocabulary), targets)
                .into_par_iter()
                .map(|(logits, target)| {
                    let log_sum_exp = log_sum_exp(logits);
                    let loss = log_sum_exp - logits[*target as usize];
                    if self.differentiable {
                        softmax(logits, log_sum_exp);
                        logits[*target as usize] -= 1.0;
                    }
                    loss
                })
                .collect();
            loss += losses.into_iter().map(f64::from).sum::<f64>();
            if self.differentiable {
                let term = Term::new(&logits, self.packed.backward());
                grad_xs.extend(product(targets.len(), hidden, Start::Zero, &[term]));
            }
        }
        let _ = self.grad_xs.set(grad_xs);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, xs: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(grad_xs) = self.grad_xs.get().filter(|_| self.differentiable) else {
            bail!("linear_cross_entropy: backward without a gradient from forward")
        };
        let dloss = grad.to_scalar::<f32>()?;
        let grad_xs = grad_xs.iter().map(|value| value * dloss).collect();
        Tensor::from_vec::<_, f32>(grad_xs, xs.shape(), xs.device()).map(Some)
    }
}

struct CrossEntropyOp {
    targets: Vec<u32>,
    /// `log Σⱼ exp(logits[i, j])` of each row, kept from the forward pass.
    log_sum_exp: OnceLock<Vec<f32>>,
}

impl CustomOp1 for CrossEntropyOp {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let logits = host::slice(logits, layout)?;
        let vocabulary = layout.dims()[1];
        let log_sum_exp: Vec<f32> = logits.par_chunks(vocabulary).map(log_sum_exp).collect();
        let loss: f64 = (logits.chunks(vocabulary).zip(&log_sum_exp).zip(&self.targets))
            .map(|((row, log_sum_exp), target)| f64::from(log_sum_exp - row[*target as usize]))
            .sum();
        let _ = self.log_sum_exp.set(log_sum_exp);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    /// `dlogits = (softmax(logits) - onehot(target)) dloss`.
    fn bwd(&self, logits: &Tensor, _loss: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(log_sum_exp) = self.log_sum_exp.get() else {
            bail!("cross_entropy: backward before forward")
        };
        let dloss = grad.to_scalar::<f32>()?;
        let vocabulary = logits.dim(1)?;
        let view = logits.storage_and_layout();
        let values = host::values(&view)?;
        let mut dlogits = vec![0.0; values.len()];
        (dlogits.par_chunks_mut(vocabulary), values.par_chunks(vocabulary), &self.targets, log_sum_exp)
            .into_par_iter()
            .for_each(|(dlogits, logits, target, log_sum_exp)| {
                softmax_times(logits, *log_sum_exp, dloss, dlogits);
                dlogits[*target as usize] -= dloss;
            });
        Tensor::from_vec(dlogits, logits.shape(), logits.device()).map(Some)
    }
}

/// `log Σ exp(logits)`: what is taken from logits to make them log-probabilities.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let (blocks, rest) = logits.as_chunks::<16>();
    let mut max = [f32::NEG_INFINITY; 16];
    for block in blocks {
        for lane in 0..16 {
            max[lane] = max[lane].max(block[lane]);
        }
    }
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = [0.0f32; 16];
    for block in blocks {
        for lane in 0..16 {
            sum[lane] += exp(block[lane] - max);
        }
    }
    let rest: f32 = rest.iter().map(|logit| exp(logit - max)).sum();
    max + (sum.iter().sum::<f32>() + rest).ln()
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax_times(logits: &[f32], log_sum_exp: f32, factor: f32, ys: &mut [f32]) {
    for (y, logit) in ys.iter_mut().zip(logits) {
        *y = exp(logit - log_sum_exp) * factor;
    }
}

/// `exp(logits - log_sum_exp)`, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax(logits: &mut [f32], log_sum_exp: f32) {
    for logit in logits {
        *logit = exp(*logit - log_sum_exp);
    }
}
