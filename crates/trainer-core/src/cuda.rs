//! The optimizer, and sums and norms of gradients, on NVIDIA GPUs: a launch for all tensors, on the kernels of `cuda-kernels`. A
//! function returns `None` where these do not serve the tensors: on another device, or of another type than f32.

mod combine;
mod tables;

use candle_core::{DType, Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Element, OptimizerTensor, Pointer};

use tables::{Settings, Tables};

pub(crate) use combine::{add_in_place, copy_in_place, scaled};

/// A parameter with its gradient and moments, and the scalars of its update.
pub(crate) struct Updated<'a> {
    pub(crate) parameter: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
    pub(crate) decay: f32,
    pub(crate) step_size: f32,
    pub(crate) root_correction: f32,
    /// Factor of the gradient.
    pub(crate) scale: f32,
}

impl Updated<'_> {
    fn tensors(&self) -> [&Tensor; 4] {
        [self.parameter, self.gradient, self.exp_avg, self.exp_avg_sq]
    }

    fn at(&self, addresses: &[Pointer]) -> OptimizerTensor {
        OptimizerTensor {
            parameter: addresses[0],
            gradient: addresses[1],
            exp_avg: addresses[2],
            exp_avg_sq: addresses[3],
            count: self.parameter.elem_count(),
            decay: self.decay,
            step_size: self.step_size,
            root_correction: self.root_correction,
            scale: self.scale,
        }
    }
}

/// The scalars of all updates.
pub(crate) struct Update {
    pub(crate) betas: [f64; 2],
    pub(crate) epsilon: f64,
}

/// How gradients are clipped.
pub(crate) struct Clipping {
    pub(crate) max_norm: f64,
    /// Whether the launches are recorded, and replayed from the next step on.
    pub(crate) graph: bool,
}

/// The result of a step with clipping.
pub(crate) struct Clipped {
    /// The losses.
    pub(crate) losses: Vec<f64>,
    /// The norm of each scaled gradient.
    pub(crate) norms: Vec<f64>,
    /// Why the launches could not be recorded, once.
    pub(crate) refused: Option<String>,
}

/// The kernels, if they serve all these tensors.
fn kernels<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Option<Kernels> {
    let mut tensors = tensors.into_iter().peekable();
    let kernels = Kernels::of(tensors.peek()?).filter(|kernels| kernels.element() == Element::F32)?;
    tensors.all(|tensor| kernels.serve(tensor)).then_some(kernels)
}

/// Updates all parameters and moments in place, from gradients that are clipped already.
pub(crate) fn adamw(updated: &[Updated<'_>], update: &Update) -> Result<Option<()>> {
    let settings = Settings::new(update, None);
    with_tables(updated, &[], |tables, kernels, inputs| tables.step(kernels, inputs, settings))
}

/// Scales the gradients, computes their norms, clips them, and updates all parameters and moments in place, unless the norm or one of
/// the `losses` is not finite. The host waits for the device once, for norms and losses together.
pub(crate) fn clipped_adamw(
    updated: &[Updated<'_>],
    losses: &[Tensor],
    update: &Update,
    clipping: &Clipping,
) -> Result<Option<Clipped>> {
    let settings = Settings::new(update, Some(clipping.max_norm));
    with_tables(updated, losses, |tables, kernels, inputs| {
        let refused = match clipping.graph {
            true => tables.replay(kernels, inputs, settings)?,
            false => tables.step(kernels, inputs, settings).map(|()| None)?,
        };
        let (norms, losses) = tables.norms_and_losses(losses.len())?;
        Ok(Clipped { losses, norms, refused })
    })
}

fn with_tables<T>(
    updated: &[Updated<'_>],
    losses: &[Tensor],
    launch: impl FnOnce(&mut Tables, &Kernels, &[&Tensor]) -> Result<T>,
) -> Result<Option<T>> {
    let Some(kernels) = kernels(updated.iter().flat_map(Updated::tensors)) else { return Ok(None) };
    let is_read = |loss: &Tensor| loss.dtype() == DType::F32 && kernels.is_on_device(loss);
    if !losses.iter().all(is_read) {
        return Ok(None);
    }
    let inputs: Vec<&Tensor> = updated.iter().flat_map(Updated::tensors).chain(losses).collect();
    let addresses = kernels.addresses(&inputs)?;
    let (of_tensors, of_losses) = addresses.split_at(inputs.len() - losses.len());
    let tensors: Vec<OptimizerTensor> =
        updated.iter().zip(of_tensors.chunks_exact(4)).map(|(updated, at)| updated.at(at)).collect();
    Tables::with(&kernels, &tensors, of_losses, |tables| launch(tables, &kernels, &inputs)).map(Some)
}

/// The Euclidean norm of each tensor.
pub(crate) fn norms(gradients: &[&Tensor]) -> Result<Option<Vec<f64>>> {
    let Some(kernels) = kernels(gradients.iter().copied()) else { return Ok(None) };
    let addresses = kernels.addresses(gradients)?;
    let tensors: Vec<OptimizerTensor> = gradients
        .iter()
        .zip(&addresses)
        .map(|(gradient, address)| {
            OptimizerTensor::of_gradient(*address, gradient.elem_count(), Pointer::NULL)
        })
        .collect();
    let (norms, _) = Tables::with(&kernels, &tensors, &[], |tables| {
        tables.launch(&kernels, gradients, |adamw| Ok(adamw.norms()?.to_vec()))?;
        tables.norms_and_losses(0)
    })?;
    Ok(Some(norms))
}
