use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Tensor, bail};
use cpu_kernels::{Buffer, Init, Isa, Rows, probabilities};
use rayon::prelude::*;

use crate::attached::attach;
use crate::linear::PackedWeight;
use crate::{Error, ForwardContext, FrozenLinear, LinearLayer, Result, cuda, host};

/// The target of a row without one: its loss and its gradient are 0. Such rows fill a batch up to a size for which a
/// [`DeviceGraph`](crate::DeviceGraph) was recorded.
pub const NO_TARGET: u32 = u32::MAX;

/// The sum of the cross entropies of rows of logits `z`, with a share `ε` of each target spread over the vocabulary of
/// `V` (label smoothing, Szegedy et al., 2016, <https://arxiv.org/abs/1512.00567>; as `torch.nn.CrossEntropyLoss`):
///
/// ```text
/// Σᵢ log Σⱼ exp(zᵢⱼ) - (1 - ε) zᵢ[targetᵢ] - ε/V Σⱼ zᵢⱼ
/// ```
///
/// `logits` has shape `(n, vocabulary)` and `targets` one id for each row, or [`NO_TARGET`]; `ε` is `label_smoothing`, in
/// `[0, 1)` and usually 0. The result is a sum and not a mean, because the mean over an optimizer step is the
/// sum over its batches divided by the number of targets in all of them. Without rows it is 0.
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
    if let Some(&target) = targets.iter().find(|target| !is_known(**target, vocabulary)) {
        return Err(Error::Target { target, vocabulary });
    }
    if !(0.0..1.0).contains(&label_smoothing) {
        return Err(Error::LabelSmoothing { got: label_smoothing });
    }
    if host::is_host_f32(logits) {
        let isa = host::isa()?;
        let op =
            CrossEntropyOp { isa, targets: targets.to_vec(), label_smoothing, log_sum_exp: OnceLock::new() };
        return Ok(logits.contiguous()?.apply_op1(op)?);
    }
    if let Some(loss) = cuda::cross_entropy(logits, targets, label_smoothing)? {
        return Ok(loss);
    }
    Ok(composed(logits, targets, label_smoothing)?)
}

fn is_known(target: u32, vocabulary: usize) -> bool {
    target == NO_TARGET || (target as usize) < vocabulary
}

/// The loss composed of candle's operations, for devices without a kernel: in f64 for logits in f64, else in
/// f32.
fn composed(logits: &Tensor, targets: &[u32], label_smoothing: f32) -> candle_core::Result<Tensor> {
    let given = logits.dtype();
    let dtype = if given == DType::F64 { DType::F64 } else { DType::F32 };
    if targets.is_empty() {
        return logits.to_dtype(dtype)?.sum_all();
    }
    let z = logits.detach().to_dtype(dtype)?;
    let (share, vocabulary) = (f64::from(label_smoothing), z.dim(1)?);
    let counts: Vec<f32> = targets.iter().map(|target| f32::from(u8::from(*target != NO_TARGET))).collect();
    let counts = Tensor::new(counts, z.device())?.unsqueeze(1)?.to_dtype(dtype)?;
    let known: Vec<u32> =
        targets.iter().map(|target| if *target == NO_TARGET { 0 } else { *target }).collect();
    let targets = Tensor::new(known, z.device())?.unsqueeze(1)?;
    let log_sum_exp = z.log_sum_exp(D::Minus1)?.unsqueeze(1)?;
    let mut expected = z.gather(&targets, 1)?;
    if share > 0.0 {
        expected = ((expected * (1.0 - share))? + (z.mean_keepdim(1)? * share)?)?;
    }
    let loss = ((&log_sum_exp - expected)? * &counts)?.sum_all()?;
    // The formula of `CrossEntropyOp::bwd`.
    attach("cross_entropy", logits, loss, move |dloss| {
        let softmax = z.broadcast_sub(&log_sum_exp)?.exp()?;
        let on_targets = Tensor::full(1.0 - share, targets.shape(), z.device())?.to_dtype(dtype)?;
        let expected = softmax.zeros_like()?.scatter_add(&targets, &on_targets, 1)?;
        let dlogits = ((softmax - expected)? - share / vocabulary as f64)?.broadcast_mul(&counts)?;
        dlogits.broadcast_mul(&dloss.to_dtype(dtype)?.reshape((1, 1))?)?.to_dtype(given)
    })
}

/// `cross_entropy_sum(head(xs), targets, ε)` for `xs` of shape `(n, hidden)`. The logits are not kept if the
/// head is frozen and there are kernels for it. `ε` is `label_smoothing`; a target may be [`NO_TARGET`].
///
/// A loss is the last node of a graph. So the forward pass also computes the gradient of `xs`, from a few rows
/// of logits at a time, which are then dropped. The backward pass multiplies this gradient by the gradient of
/// the loss.
pub fn linear_cross_entropy_sum(
    xs: &Tensor,
    head: &dyn LinearLayer,
    targets: &[u32],
    label_smoothing: f32,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    let vocabulary = head.out_features();
    let frozen = head.adapted(ctx)?.filter(|head| head.parameters().next().is_none());
    let fits = xs.dims() == [targets.len(), head.in_features()];
    let known =
        (0.0..1.0).contains(&label_smoothing) && targets.iter().all(|target| is_known(*target, vocabulary));
    if let Some(frozen) = &frozen
        && fits
        && known
        && frozen.base.refuse_int8(xs).is_ok()
        && let Some(loss) = cuda::linear_cross_entropy(xs, &frozen.base, targets, label_smoothing)?
    {
        return Ok(loss);
    }
    let on_host = frozen.filter(|_| host::is_host_f32(xs));
    let packed = on_host.and_then(|head| Some((head.base.packed()?, head.base)));
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
        _ => cross_entropy_sum(&head.forward(xs, ctx)?, targets, label_smoothing),
    }
}

/// Number of rows whose logits are in memory at the same time.
const ROWS: usize = 64;

struct HeadOp {
    head: FrozenLinear,
    packed: Arc<PackedWeight>,
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
        let isa = self.packed.forward.isa();
        let mut loss = 0.0;
        let mut grad_xs = vec![0.0; if self.differentiable { xs.len() } else { 0 }];
        let mut gradients = grad_xs.chunks_mut(ROWS * hidden);
        for (xs, targets) in xs.chunks(ROWS * hidden).zip(self.targets.chunks(ROWS)) {
            let mut logits = Buffer::new(targets.len() * vocabulary);
            let input = self.packed.input(Rows::new(xs, hidden));
            self.head.sum(&mut logits, &self.packed, &input, None)?;
            let losses: Vec<f32> = (logits.par_chunks_mut(vocabulary), targets)
                .into_par_iter()
                .map(|(logits, target)| {
                    if *target == NO_TARGET {
                        logits.fill(0.0);
                        return 0.0;
                    }
                    let log_sum_exp = cpu_kernels::log_sum_exp(isa, logits);
                    let loss = log_sum_exp - expected(logits, *target, self.label_smoothing);
                    if self.differentiable {
                        probabilities(isa, logits, log_sum_exp, self.label_smoothing / vocabulary as f32);
                        logits[*target as usize] -= 1.0 - self.label_smoothing;
                    }
                    loss
                })
                .collect();
            loss += losses.into_iter().map(f64::from).sum::<f64>();
            if let Some(gradient) = gradients.next() {
                let dlogits = Rows::new(&logits, vocabulary);
                self.packed.sum_backward((gradient, Init::Zero), dlogits, None, None);
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
    isa: Isa,
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
        let log_sum_exp: Vec<f32> =
            logits.par_chunks(vocabulary).map(|logits| cpu_kernels::log_sum_exp(self.isa, logits)).collect();
        let loss: f64 = (logits.chunks(vocabulary).zip(&log_sum_exp).zip(&self.targets))
            .filter(|(_, target)| **target != NO_TARGET)
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
            .filter(|(_, _, target, _)| **target != NO_TARGET)
            .for_each(|(dlogits, logits, target, log_sum_exp)| {
                dlogits.copy_from_slice(logits);
                probabilities(self.isa, dlogits, *log_sum_exp, self.label_smoothing / vocabulary as f32);
                dlogits[*target as usize] -= 1.0 - self.label_smoothing;
                dlogits.iter_mut().for_each(|dlogit| *dlogit *= dloss);
            });
        Tensor::from_vec(dlogits, logits.shape(), logits.device()).map(Some)
    }
}

/// The expected logit under the smoothed target, `(1 - ε) logits[target] + ε mean(logits)`.
fn expected(logits: &[f32], target: u32, label_smoothing: f32) -> f32 {
    let logit = logits[target as usize];
    if label_smoothing == 0.0 {
        return logit;
    }
    let mean = logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64;
    (1.0 - label_smoothing) * logit + label_smoothing * mean as f32
}
