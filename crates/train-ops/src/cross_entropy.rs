use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::kernels::{Operand, Rows, Start, Term, product};
use crate::linear::Packed;
use crate::math::exp;
use crate::{Error, FrozenLinear, LinearLayer, Pass, Result, host};

/// The sum of the cross entropies of rows of logits `z`, with a share `ε` of each target spread over the vocabulary of
/// `V` (label smoothing, Szegedy et al., 2016, <https://arxiv.org/abs/1512.00567>; as `torch.nn.CrossEntropyLoss`):
///
/// ```text
/// Σᵢ log Σⱼ exp(zᵢⱼ) - (1 - ε) zᵢ[targetᵢ] - ε/V Σⱼ zᵢⱼ
/// ```
///
/// `logits` has shape `(n, vocabulary)` and `targets` one id for each row; `ε` is `label_smoothing`, in `[0, 1)` and
/// usually 0. A sum and not a mean: the mean over an optimizer step is the sum over its batches divided by the number
/// of targets in all of them. Without rows it is 0.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let logits = Tensor::new(&[[0f32, 0.], [9., 9.]], &Device::Cpu)?;
/// let loss = train_ops::cross_entropy_sum(&logits, &[0, 1], 0.0)?;
/// assert!((loss.to_scalar::<f32>()? - 2.0 * 2f32.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
pub fn cross_entropy_sum(logits: &Tensor, targets: &[u32], label_smoothing: f32) -> Result<Tensor> {
    let &[rows, vocabulary] = logits.dims() else {
        return Err(Error::Shape {
            path: "logits".to_owned(),
            expected: "(targets, vocabulary)".to_owned(),
            got: logits.dims().to_vec(),
        });
    };
    if rows != targets.len() || vocabulary == 0 {
        return Err(Error::Shape {
            path: "logits".to_owned(),
            expected: format!("one row for each of {} targets, of more than 0 logits", targets.len()),
            got: logits.dims().to_vec(),
        });
    }
    if let Some(&target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        return Err(Error::Target { target, vocabulary });
    }
    if !(0.0..1.0).contains(&label_smoothing) {
        return Err(Error::LabelSmoothing { got: label_smoothing });
    }
    if host::is_host_f32(logits) {
        let op = CrossEntropyOp { targets: targets.to_vec(), label_smoothing, log_sum_exp: OnceLock::new() };
        return Ok(logits.contiguous()?.apply_op1(op)?);
    }
    let logits = logits.to_dtype(candle_core::DType::F32)?;
    let log_sum_exp = logits.log_sum_exp(D::Minus1)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let mut expected = logits.gather(&targets, 1)?.squeeze(1)?;
    if label_smoothing > 0.0 {
        let share = f64::from(label_smoothing);
        expected = ((expected * (1.0 - share))? + (logits.mean(D::Minus1)? * share)?)?;
    }
    Ok((log_sum_exp - expected)?.sum_all()?)
}

/// `cross_entropy_sum(head(xs), targets, ε)` for `xs` of shape `(n, hidden)`, without keeping the logits where the head is
/// frozen and in host memory. `ε` is the [label smoothing](Pass::label_smoothing) of the pass.
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
    let frozen =
        head.adapted(pass)?.filter(|head| host::is_host_f32(xs) && head.parameters().next().is_none());
    let packed = frozen.and_then(|head| Some((head.base.packed()?, head.base)));
    let fits = xs.dims() == [targets.len(), head.in_features()];
    let label_smoothing = pass.label_smoothing();
    let known =
        (0.0..1.0).contains(&label_smoothing) && targets.iter().all(|target| (*target as usize) < vocabulary);
    match packed {
        Some((packed, head)) if fits && known => {
            let op = HeadOp {
                head,
                packed,
                targets: targets.to_vec(),
                label_smoothing,
                differentiable: xs.track_op(),
                grad_xs: OnceLock::new(),
            };
            Ok(xs.contiguous()?.apply_op1(op)?)
        }
        _ => cross_entropy_sum(&head.forward(xs, pass)?, targets, label_smoothing),
    }
}

/// Rows whose logits are in memory at a time.
const ROWS: usize = 64;

struct HeadOp {
    head: FrozenLinear,
    packed: Arc<Packed>,
    targets: Vec<u32>,
    label_smoothing: f32,
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
        let mut grad_xs = vec![0.0; if self.differentiable { xs.len() } else { 0 }];
        let mut places = grad_xs.chunks_mut(ROWS * hidden);
        for (xs, targets) in xs.chunks(ROWS * hidden).zip(self.targets.chunks(ROWS)) {
            let mut logits = Buffer::new(targets.len() * vocabulary);
            let xs = Operand::new(Rows::new(xs, hidden), &self.packed.forward);
            self.head.sum(&mut logits, &[Term::new(&xs, &self.packed.forward)])?;
            let losses: Vec<f32> = (logits.par_chunks_mut(vocabulary), targets)
                .into_par_iter()
                .map(|(logits, target)| {
                    let log_sum_exp = log_sum_exp(logits);
                    let loss = log_sum_exp - expected(logits, *target, self.label_smoothing);
                    if self.differentiable {
                        softmax(logits, log_sum_exp, self.label_smoothing / vocabulary as f32);
                        logits[*target as usize] -= 1.0 - self.label_smoothing;
                    }
                    loss
                })
                .collect();
            loss += losses.into_iter().map(f64::from).sum::<f64>();
            if let Some(place) = places.next() {
                let dlogits = Operand::new(Rows::new(&logits, vocabulary), self.packed.backward());
                let term = Term::new(&dlogits, self.packed.backward());
                product(place, hidden, Start::Zero, &[term]);
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
    label_smoothing: f32,
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
            .map(|((row, log_sum_exp), target)| {
                f64::from(log_sum_exp - expected(row, *target, self.label_smoothing))
            })
            .sum();
        let _ = self.log_sum_exp.set(log_sum_exp);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    /// `dlogits = (softmax(logits) - (1 - ε) onehot(target) - ε/V) dloss`.
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
                dlogits.copy_from_slice(logits);
                softmax(dlogits, *log_sum_exp, self.label_smoothing / vocabulary as f32);
                dlogits[*target as usize] -= 1.0 - self.label_smoothing;
                dlogits.iter_mut().for_each(|dlogit| *dlogit *= dloss);
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

/// The logit that the smoothed target expects, `(1 - ε) logits[target] + ε mean(logits)`.
fn expected(logits: &[f32], target: u32, label_smoothing: f32) -> f32 {
    let logit = logits[target as usize];
    if label_smoothing == 0.0 {
        return logit;
    }
    let mean = logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64;
    (1.0 - label_smoothing) * logit + label_smoothing * mean as f32
}

/// `exp(logits - log_sum_exp) - uniform`, in place.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn softmax(logits: &mut [f32], log_sum_exp: f32, uniform: f32) {
    for logit in logits {
        *logit = exp(*logit - log_sum_exp) - uniform;
    }
}
