//! Tensors that are computed from gradients one by one.

use candle_core::{Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{AdamW, Launch, OptimizerTensor};

use super::kernels;
use super::tables::Tables;

/// Elements of 16 bytes.
const ALIGNED: usize = 4;

/// Each tensor times `factor`, in new memory.
pub(crate) fn scaled(gradients: &[&Tensor], factor: f64) -> Result<Option<Vec<Tensor>>> {
    let Some(kernels) = kernels(gradients.iter().copied()) else { return Ok(None) };
    // All in one piece of memory, each from a multiple of 16 bytes on.
    let len = gradients.iter().map(|gradient| gradient.elem_count().next_multiple_of(ALIGNED)).sum();
    let memory = Kernels::tensor(kernels.floats(len)?, &Shape::from(len));
    let mut first = 0;
    let place = |gradient: &&Tensor| {
        let place = memory.narrow(0, first, gradient.elem_count())?.reshape(gradient.shape())?;
        first += gradient.elem_count().next_multiple_of(ALIGNED);
        Ok(place)
    };
    let scaled = gradients.iter().map(place).collect::<Result<Vec<Tensor>>>()?;
    combine(&kernels, &scaled.iter().collect::<Vec<_>>(), gradients, factor, AdamW::scaled)?;
    Ok(Some(scaled))
}

/// Copies each gradient to the tensor of `to` in its place. No two tensors of `to` may share memory.
pub(crate) fn copy_in_place(to: &[&Tensor], gradients: &[&Tensor]) -> Result<Option<()>> {
    in_place(to, gradients, AdamW::scaled)
}

/// Adds each gradient to the tensor of `to` in its place. No two tensors of `to` may share memory.
pub(crate) fn add_in_place(to: &[&Tensor], gradients: &[&Tensor]) -> Result<Option<()>> {
    in_place(to, gradients, AdamW::added)
}

type Combination = fn(&AdamW) -> cuda_kernels::Result<Launch>;

fn in_place(to: &[&Tensor], gradients: &[&Tensor], combination: Combination) -> Result<Option<()>> {
    let same = to.len() == gradients.len()
        && to.iter().zip(gradients).all(|(to, gradient)| to.shape() == gradient.shape());
    let Some(kernels) = kernels(to.iter().chain(gradients).copied()).filter(|_| same) else {
        return Ok(None);
    };
    combine(&kernels, to, gradients, 1.0, combination).map(Some)
}

/// Runs a kernel on pairs of equal shapes.
fn combine(
    kernels: &Kernels,
    to: &[&Tensor],
    gradients: &[&Tensor],
    factor: f64,
    combination: Combination,
) -> Result<()> {
    let inputs = [to, gradients].concat();
    let addresses = kernels.addresses(&inputs)?;
    let (places, sources) = addresses.split_at(to.len());
    let tensors: Vec<OptimizerTensor> = gradients
        .iter()
        .zip(places.iter().zip(sources))
        .map(|(gradient, (to, from))| OptimizerTensor {
            scale: factor as f32,
            ..OptimizerTensor::of_gradient(*from, gradient.elem_count(), *to)
        })
        .collect();
    Tables::with(kernels, &tensors, &[], |tables| {
        tables.launch(kernels, &inputs, |adamw| Ok(vec![combination(adamw)?]))
    })
}
