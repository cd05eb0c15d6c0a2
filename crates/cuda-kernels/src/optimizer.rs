//! The norm of all gradients, clipping and AdamW in a launch each, whatever the number of tensors.

use crate::launch::{Arguments, size};
use crate::{Error, Launch, Pointer, Result};

/// A trained tensor, all of whose memory is f32, 16-byte aligned and of `count` elements.
#[derive(Clone, Copy, Debug)]
pub struct OptimizerTensor {
    /// Changed by a step.
    pub parameter: Pointer,
    /// The sum of its gradients.
    pub gradient: Pointer,
    /// First moment, changed by a step.
    pub exp_avg: Pointer,
    /// Second moment, changed by a step.
    pub exp_avg_sq: Pointer,
    /// Number of elements.
    pub count: usize,
    /// `1 - η λ`, with `η` the learning rate and `λ` the weight decay.
    pub decay: f32,
    /// `η / (1 - β₁ᵗ)` of step `t`.
    pub step_size: f32,
    /// `sqrt(1 - β₂ᵗ)`.
    pub root_correction: f32,
    /// Factor of the gradient: 1 / (targets of the step).
    pub scale: f32,
}

/// The tables of tensors and of chunks of them that the kernels read. The caller copies both to the device: the first at each
/// step, as learning rate, step and targets change, the second once. No launch has an argument that changes, so that a recorded one can
/// be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorTable {
    /// Words of an array of structs.
    pub tensors: Vec<u64>,
    /// The tensor of each chunk.
    pub chunks: Vec<u32>,
}

/// Elements that a block works on.
const CHUNK: usize = 4096;
const THREADS: u32 = 256;

impl OptimizerTensor {
    /// A gradient of `count` elements that is not scaled, for [`AdamW::norms`], and for [`AdamW::scaled`] and [`AdamW::added`], which
    /// write to `parameter`.
    pub fn of_gradient(gradient: Pointer, count: usize, parameter: Pointer) -> Self {
        let (exp_avg, exp_avg_sq) = (Pointer::NULL, Pointer::NULL);
        let (decay, step_size, root_correction, scale) = (1.0, 0.0, 1.0, 1.0);
        Self { parameter, gradient, exp_avg, exp_avg_sq, count, decay, step_size, root_correction, scale }
    }
}

impl TensorTable {
    /// The tables of these tensors.
    ///
    /// # Errors
    /// If a tensor is not aligned, or has 2³¹ elements or more.
    pub fn new(tensors: &[OptimizerTensor]) -> Result<Self> {
        let (mut words, mut chunks) = (Vec::new(), Vec::new());
        for (index, tensor) in tensors.iter().enumerate() {
            let pointers = [tensor.parameter, tensor.gradient, tensor.exp_avg, tensor.exp_avg_sq];
            if let Some(pointer) = pointers.iter().find(|pointer| pointer.0 % 16 != 0) {
                return Err(Error::Mismatch {
                    kernel: "adamw",
                    expected: "addresses that are multiples of 16".to_owned(),
                    got: format!("{:#x} of tensor {index}", pointer.0),
                });
            }
            let count = size("adamw", "elements of a tensor", tensor.count)?;
            let first_chunk = size("adamw", "chunks", chunks.len())?;
            let arguments = Arguments::default()
                .pointers(&pointers)
                .u32s(&[count, first_chunk])
                .f32(tensor.decay)
                .f32(tensor.step_size)
                .f32(tensor.root_correction)
                .f32(tensor.scale);
            let launch = Launch::new("", "", [0; 3], 0, arguments);
            words.extend_from_slice(launch.arguments());
            chunks.resize(chunks.len() + tensor.count.div_ceil(CHUNK), index as u32);
        }
        Ok(Self { tensors: words, chunks })
    }

    /// The words of a table of losses, each an f32 at its address: their number, and room for `room` addresses, or for all of them if
    /// there are more.
    pub fn losses(losses: &[Pointer], room: usize) -> Vec<u64> {
        let mut words = vec![losses.len() as u64];
        words.extend(losses.iter().map(|loss| loss.0));
        words.resize(words.len().max(1 + room), 0);
        words
    }
}

/// AdamW with clipping by the global norm, over the tensors of a [`TensorTable`], operation by operation as `trainer-core`'s
/// AdamW on the CPU:
///
/// ```text
/// g ← scale g                    norm = ‖all g‖
/// g ← min(1, max_norm / (norm + 1e-6)) g
/// m ← β₁ m + (1 - β₁) g          v ← β₂ v + (1 - β₂) g²
/// θ ← decay θ - step_size m / (√v / root_correction + ε)
/// ```
///
/// A step whose norm is infinite or NaN changes nothing, nor does one with such a loss.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// [`TensorTable::tensors`] on the device.
    pub tensors: Pointer,
    /// [`TensorTable::chunks`] on the device.
    pub chunks: Pointer,
    /// Scratch memory, an f64 for each chunk.
    pub squares: Pointer,
    /// The norm of each tensor's gradient, f64.
    pub norms: Pointer,
    /// 16 bytes: the norm of all gradients as f64, NaN if a loss is not finite; then the coefficient of clipping as f32.
    pub result: Pointer,
    /// [`TensorTable::losses`] on the device; [`Pointer::NULL`] without losses.
    pub losses: Pointer,
    /// The value of each loss, f64, written by [`norms`](Self::norms). Not used without losses.
    pub loss_values: Pointer,
    /// Number of tensors.
    pub tensor_count: usize,
    /// Number of chunks.
    pub chunk_count: usize,
    /// The largest global norm; 0 for no clipping.
    pub max_norm: f64,
    /// `β₁` and `β₂`.
    pub betas: [f64; 2],
    /// `ε`.
    pub epsilon: f64,
}

impl AdamW {
    /// The two kernels that compute `norms`, `result` and `loss_values`, in the order in which they must run.
    ///
    /// # Errors
    /// If there are 2³¹ chunks or more.
    pub fn norms(&self) -> Result<[Launch; 2]> {
        Ok([self.launch("gradient_squares", self.chunk_count)?, self.launch("gradient_norms", 1)?])
    }

    /// The kernel that writes `scale g` of each tensor where its [`parameter`](OptimizerTensor::parameter) points, and reads
    /// nothing but the tables and the gradients.
    ///
    /// # Errors
    /// As [`norms`](Self::norms).
    pub fn scaled(&self) -> Result<Launch> {
        self.launch("gradient_scale", self.chunk_count)
    }

    /// The kernel that adds each gradient to what its [`parameter`](OptimizerTensor::parameter) points to, and reads nothing but the
    /// tables and these.
    ///
    /// # Errors
    /// As [`norms`](Self::norms).
    pub fn added(&self) -> Result<Launch> {
        self.launch("gradient_add", self.chunk_count)
    }

    /// The kernel of the update, after [`norms`](Self::norms).
    ///
    /// # Errors
    /// As [`norms`](Self::norms).
    pub fn step(&self) -> Result<Launch> {
        self.launch("adamw", self.chunk_count)
    }

    fn launch(&self, function: &'static str, blocks: usize) -> Result<Launch> {
        let [beta1, beta2] = self.betas;
        let arguments = Arguments::default()
            .pointers(&[self.tensors, self.chunks, self.squares, self.norms, self.result])
            .pointers(&[self.losses, self.loss_values])
            .f64(self.max_norm)
            .u32s(&[
                size(function, "tensors", self.tensor_count)?,
                size(function, "chunks", self.chunk_count)?,
            ])
            .f32(beta1 as f32)
            .f32(beta2 as f32)
            .f32((1.0 - beta1) as f32)
            .f32((1.0 - beta2) as f32)
            .f32(self.epsilon as f32);
        Ok(Launch::new("optimizer", function, [blocks as u32, 1, 1], THREADS, arguments))
    }
}
