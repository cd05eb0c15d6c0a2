use candle_core::{CudaStorage, Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{CrossEntropy, LossSum, Pointer};

use super::inputs::host_numbers;
use super::node::node;
use crate::{FrozenLinear, LinearLayer, NO_TARGET};

// The kernel and the rest of this crate mean the same.
const _: () = assert!(CrossEntropy::NO_TARGET == NO_TARGET);

/// Rows whose logits are in memory at the same time.
const ROWS: usize = 256;

/// The sum of the losses of `logits` `(targets, vocabulary)`.
pub(crate) fn cross_entropy(
    logits: &Tensor,
    targets: &[u32],
    label_smoothing: f32,
) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(logits).filter(|_| !targets.is_empty()) else { return Ok(None) };
    let gradient = logits.track_op();
    // The gradient takes the place of the logits.
    let z = logits.detach().contiguous()?;
    let z = if gradient { z.copy()? } else { z };
    let losses = losses(&kernels, (&z, z.dim(1)?), None, targets, label_smoothing, gradient)?;
    let loss = sum(&kernels, &losses)?;
    node("cross_entropy", logits, loss, (), move |dloss| scaled(&z, dloss)).map(Some)
}

/// The sum of the losses of `head(xs)`, whose logits exist for a few rows at a time, in the type of the head's weight. The gradient of
/// `xs` is computed with it.
pub(crate) fn linear_cross_entropy(
    xs: &Tensor,
    head: &FrozenLinear,
    targets: &[u32],
    label_smoothing: f32,
) -> Result<Option<Tensor>> {
    if Kernels::of(xs).is_none() || targets.is_empty() {
        return Ok(None);
    }
    let (gradient, weight) = (xs.track_op(), head.padded_weight()?);
    let Some(kernels) = Kernels::of(&weight) else { return Ok(None) };
    let vocabulary = head.out_features();
    let (mut all_losses, mut gradients) = (Vec::new(), Vec::new());
    for (chunk, targets) in targets.chunks(ROWS).enumerate() {
        let rows = xs.detach().narrow(0, chunk * ROWS, targets.len())?.contiguous()?;
        let logits = rows.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
        let losses = losses(&kernels, (&logits, vocabulary), head.bias(), targets, label_smoothing, gradient);
        all_losses.push(losses?);
        if gradient {
            gradients.push(logits.matmul(&weight)?.to_dtype(xs.dtype())?);
        }
    }
    let loss = sum(&kernels, &Tensor::cat(&all_losses, 0)?)?;
    let dxs = if gradient { Tensor::cat(&gradients, 0)? } else { xs.detach() };
    node("linear_cross_entropy", xs, loss, (), move |dloss| scaled(&dxs, dloss)).map(Some)
}

/// `values dloss`.
fn scaled(values: &Tensor, dloss: &Tensor) -> Result<Tensor> {
    values.broadcast_mul(&dloss.to_dtype(values.dtype())?)
}

/// The loss of each row of `logits`, of which the first columns are those of the `vocabulary`, with a bias that is added to them. With
/// `gradient`, `logits`, which nothing else reads, become their gradient.
fn losses(
    kernels: &Kernels,
    (logits, vocabulary): (&Tensor, usize),
    bias: Option<&Tensor>,
    targets: &[u32],
    label_smoothing: f32,
    gradient: bool,
) -> Result<Tensor> {
    let (rows, stride) = logits.dims2()?;
    let targets = host_numbers(targets, logits.device())?;
    let mut losses = kernels.floats(rows)?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let operation = CrossEntropy {
            logits: inputs[0],
            bias: inputs.get(2).copied().unwrap_or(Pointer::NULL),
            targets: inputs[1],
            losses: outputs[0],
            rows,
            vocabulary,
            stride,
            label_smoothing,
            gradient,
        };
        Ok(vec![operation.launch(kernels.element())?])
    };
    let inputs: Vec<&Tensor> = [logits, &targets].into_iter().chain(bias).collect();
    // SAFETY: there is a target, below the vocabulary or none, and a loss for each row, and the bias has an element for each word.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [&mut losses], launches) }?;
    Ok(Kernels::tensor(losses, &Shape::from(rows)))
}

fn sum(kernels: &Kernels, losses: &Tensor) -> Result<CudaStorage> {
    let mut sum = kernels.floats(1)?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let count = losses.elem_count();
        Ok(vec![LossSum { losses: inputs[0], sum: outputs[0], count }.launch()?])
    };
    // SAFETY: `count` losses, one sum.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&[losses], &mut [&mut sum], launches) }?;
    Ok(sum)
}
