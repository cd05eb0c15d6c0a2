//! The optimizer and the norms of gradients on NVIDIA GPUs: a launch for all tensors, on the kernels of `cuda-kernels`. A function
//! returns `None` where these do not serve the tensors: on another device, or of another type than f32.

mod tables;

use candle_core::{Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{AdamW, Element, OptimizerTensor, Pointer};

use tables::Tables;

/// A parameter with its gradient and moments, and the scalars of its update.
pub(crate) struct Updated<'a> {
    pub(crate) parameter: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    pub(crate) exp_avg: &'a Tensor,
    pub(crate) exp_avg_sq: &'a Tensor,
    pub(crate) decay: f32,
    pub(crate) step_size: f32,
    pub(crate) root_correction: f32,
}

impl Updated<'_> {
    fn tensors(&self) -> [&Tensor; 4] {
        [self.parameter, self.gradient, self.exp_avg, self.exp_avg_sq]
    }
}

/// The kernels, if they serve all these tensors.
fn kernels<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Option<Kernels> {
    let mut tensors = tensors.into_iter().peekable();
    let kernels = Kernels::of(tensors.peek()?).filter(|kernels| kernels.element() == Element::F32)?;
    tensors.all(|tensor| kernels.serve(tensor)).then_some(kernels)
}

/// Updates all parameters and moments in place.
pub(crate) fn adamw(updated: &[Updated<'_>], betas: [f64; 2], epsilon: f64) -> Result<Option<()>> {
    let Some(kernels) = kernels(updated.iter().flat_map(Updated::tensors)) else { return Ok(None) };
    let inputs: Vec<&Tensor> = updated.iter().flat_map(Updated::tensors).collect();
    let addresses = kernels.addresses(&inputs)?;
    let tensors: Vec<OptimizerTensor> = updated
        .iter()
        .zip(addresses.chunks_exact(4))
        .map(|(updated, addresses)| OptimizerTensor {
            parameter: addresses[0],
            gradient: addresses[1],
            exp_avg: addresses[2],
            exp_avg_sq: addresses[3],
            count: updated.parameter.elem_count(),
            decay: updated.decay,
            step_size: updated.step_size,
            root_correction: updated.root_correction,
        })
        .collect();
    Tables::with(&kernels, &tensors, |tables| {
        let read = [&inputs[..], &tables.memory()].concat();
        let launches = |addresses: &[Pointer], _: &[Pointer]| {
            let memory = &addresses[inputs.len()..];
            // Clipping was done before.
            let result = tables.unclipped(memory);
            Ok(vec![AdamW { result, betas, epsilon, ..tables.adamw(memory) }.step()?])
        };
        // SAFETY: the tables describe these tensors, all of the shape of their parameter; nothing else uses them during a step.
        #[allow(unsafe_code)]
        unsafe {
            kernels.run(&read, &mut [], launches)
        }
    })?;
    Ok(Some(()))
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
    let norms = Tables::with(&kernels, &tensors, |tables| {
        let read = [gradients, &tables.memory()].concat();
        let launches = |addresses: &[Pointer], _: &[Pointer]| {
            Ok(tables.adamw(&addresses[gradients.len()..]).norms()?.to_vec())
        };
        // SAFETY: the tables describe these tensors, and have memory for the sums.
        #[allow(unsafe_code)]
        unsafe { kernels.run(&read, &mut [], launches) }?;
        tables.norms()
    })?;
    Ok(Some(norms))
}

/// Elements of 16 bytes.
const ALIGNED: usize = 4;

/// Each tensor times `factor`.
pub(crate) fn scaled(gradients: &[&Tensor], factor: f64) -> Result<Option<Vec<Tensor>>> {
    let Some(kernels) = kernels(gradients.iter().copied()) else { return Ok(None) };
    // All in one piece of memory, each from a multiple of 16 bytes on.
    let mut firsts = Vec::with_capacity(gradients.len());
    let mut len = 0;
    for gradient in gradients {
        firsts.push(len);
        len += gradient.elem_count().next_multiple_of(ALIGNED);
    }
    let memory = Kernels::tensor(kernels.floats(len)?, &Shape::from(len));
    let [to] = kernels.addresses(&[&memory])?[..] else { return Ok(None) };
    let addresses = kernels.addresses(gradients)?;
    let tensors: Vec<OptimizerTensor> = gradients
        .iter()
        .zip(addresses.iter().zip(&firsts))
        .map(|(gradient, (address, first))| {
            let to = Pointer(to.0 + (first * size_of::<f32>()) as u64);
            OptimizerTensor::of_gradient(*address, gradient.elem_count(), to)
        })
        .collect();
    Tables::with(&kernels, &tensors, |tables| {
        let read = [gradients, &tables.memory(), &[&memory]].concat();
        let launches = |addresses: &[Pointer], _: &[Pointer]| {
            let adamw = tables.adamw(&addresses[gradients.len()..]);
            Ok(vec![AdamW { scale: factor as f32, ..adamw }.scaled()?])
        };
        // SAFETY: the tables describe these tensors and a place in the memory for each, which was just made: nothing else reads it.
        #[allow(unsafe_code)]
        unsafe {
            kernels.run(&read, &mut [], launches)
        }
    })?;
    let scaled = gradients.iter().zip(firsts);
    let scaled = scaled
        .map(|(gradient, first)| memory.narrow(0, first, gradient.elem_count())?.reshape(gradient.shape()));
    scaled.collect::<Result<Vec<_>>>().map(Some)
}
