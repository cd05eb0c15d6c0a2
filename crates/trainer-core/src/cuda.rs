//! The optimizer and the norms of gradients on NVIDIA GPUs: a launch for all tensors, on the kernels of `cuda-kernels`. A function
//! returns `None` where these do not serve the tensors: on another device, or of another type than f32.

use candle_core::{Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{AdamW, Element, OptimizerTensor, Pointer, TensorTable};

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
    let table = Tables::new(&kernels, &tensors)?;
    // Clipping was done before: the factor is 1.
    let result = kernels.words(&[0, u64::from(1f32.to_bits())])?;
    let read = [&inputs[..], &[&table.tensors, &table.chunks, &result]].concat();
    let launches = |addresses: &[Pointer], _: &[Pointer]| {
        let [tensors, chunks, result] = [0, 1, 2].map(|i| addresses[inputs.len() + i]);
        let adamw = AdamW { result, betas, epsilon, ..table.adamw(tensors, chunks) };
        Ok(vec![adamw.step()?])
    };
    // SAFETY: the tables describe these tensors, all of the shape of their parameter; nothing else uses them during a step.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&read, &mut [], launches) }?;
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
    let table = Tables::new(&kernels, &tensors)?;
    // Numbers of 64 bits: a sum for each chunk, the norms, and 16 bytes for the norm of all.
    let (mut squares, mut norms) =
        (kernels.doubles(table.chunk_count)?, kernels.doubles(table.tensor_count + 2)?);
    let read = [gradients, &[&table.tensors, &table.chunks]].concat();
    let launches = |addresses: &[Pointer], outputs: &[Pointer]| {
        let [tensors, chunks] = [0, 1].map(|i| addresses[gradients.len() + i]);
        // 16 bytes that begin at a multiple of 8.
        let result = Pointer(outputs[1].0 + 8 * table.tensor_count as u64);
        let of = AdamW { squares: outputs[0], norms: outputs[1], result, ..table.adamw(tensors, chunks) };
        Ok(of.norms()?.to_vec())
    };
    // SAFETY: the tables describe these tensors, and the outputs are as large as documented.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&read, &mut [&mut squares, &mut norms], launches) }?;
    let norms = Kernels::tensor(norms, &Shape::from(table.tensor_count + 2)).to_vec1::<f64>()?;
    Ok(Some(norms[..table.tensor_count].to_vec()))
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
    let table = Tables::new(&kernels, &tensors)?;
    let read = [gradients, &[&table.tensors, &table.chunks, &memory]].concat();
    let launches = |addresses: &[Pointer], _: &[Pointer]| {
        let [tensors, chunks] = [0, 1].map(|i| addresses[gradients.len() + i]);
        Ok(vec![AdamW { scale: factor as f32, ..table.adamw(tensors, chunks) }.scaled()?])
    };
    // SAFETY: the tables describe these tensors and a place in the memory for each, which was just made: nothing else reads it.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&read, &mut [], launches) }?;
    let scaled = gradients.iter().zip(firsts);
    let scaled = scaled
        .map(|(gradient, first)| memory.narrow(0, first, gradient.elem_count())?.reshape(gradient.shape()));
    scaled.collect::<Result<Vec<_>>>().map(Some)
}

/// The tables of a launch on the device.
struct Tables {
    tensors: Tensor,
    chunks: Tensor,
    tensor_count: usize,
    chunk_count: usize,
}

impl Tables {
    fn new(kernels: &Kernels, tensors: &[OptimizerTensor]) -> Result<Self> {
        let table = TensorTable::new(tensors).map_err(candle_core::Error::wrap)?;
        Ok(Self {
            tensors: kernels.words(&table.tensors)?,
            chunks: kernels.numbers(&table.chunks)?,
            tensor_count: tensors.len(),
            chunk_count: table.chunks.len(),
        })
    }

    /// The arguments without scratch memory, for gradients that are neither scaled nor clipped.
    fn adamw(&self, tensors: Pointer, chunks: Pointer) -> AdamW {
        AdamW {
            tensors,
            chunks,
            squares: Pointer::NULL,
            norms: Pointer::NULL,
            result: Pointer::NULL,
            tensor_count: self.tensor_count,
            chunk_count: self.chunk_count,
            scale: 1.0,
            max_norm: 0.0,
            betas: [0.0; 2],
            epsilon: 0.0,
        }
    }
}
