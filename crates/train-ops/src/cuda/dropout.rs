use candle_core::{CudaStorage, DType, Device, Result, Shape, Tensor};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::Kernels;
use cuda_kernels::{Dropout, Mask, Pointer};

use super::keys::device_keys;
use super::node::node;

/// A mask whose keys are on the device: a few bytes in place of a factor for each element.
pub(super) struct DeviceMask {
    pub(super) keys: Tensor,
    rows_per_sample: u32,
    p: f32,
}

impl DeviceMask {
    pub(super) fn new(kernels: &Kernels, mask: &DropoutMask) -> Result<Self> {
        let rows_per_sample = u32::try_from(mask.rows_per_sample()).unwrap_or(u32::MAX);
        Ok(Self { keys: device_keys(kernels, mask)?, rows_per_sample, p: mask.p() })
    }

    /// The mask as kernels take it, with the address of its keys.
    pub(super) fn at(&self, keys: Pointer) -> Mask {
        Mask { keys, rows_per_sample: self.rows_per_sample, p: self.p }
    }

    /// `mask ∘ xs` for a contiguous tensor.
    fn apply(&self, kernels: &Kernels, xs: &Tensor) -> Result<CudaStorage> {
        let (count, columns) = (xs.elem_count(), xs.dims().last().copied().unwrap_or(1).max(1));
        let mut ys = kernels.activations(count)?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let (rows, mask) = (count / columns, self.at(inputs[1]));
            let dropout = Dropout { xs: inputs[0], ys: outputs[0], rows, columns, mask };
            Ok(vec![dropout.launch(kernels.element())?])
        };
        // SAFETY: both tensors have `count` elements, and there is a key for each sample of the rows.
        #[allow(unsafe_code)]
        unsafe { kernels.run(&[xs, &self.keys], &mut [&mut ys], launches) }?;
        Ok(ys)
    }
}

/// Dropout, with the mask computed again in the backward pass.
pub(crate) fn dropout(xs: &Tensor, mask: &DropoutMask) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
    let mask = DeviceMask::new(&kernels, mask)?;
    let xs = xs.contiguous()?;
    let ys = mask.apply(&kernels, &xs)?;
    let backward = move |grad: &Tensor| Ok(Kernels::tensor(mask.apply(&kernels, grad)?, grad.shape()));
    node("dropout", &xs, ys, xs.shape(), backward).map(Some)
}

/// The factors of a mask, made where they are needed.
pub(crate) fn factors(
    mask: &DropoutMask,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let ones = Tensor::ones(shape, dtype, device)?;
    let Some(kernels) = Kernels::of(&ones) else { return Ok(None) };
    let factors = DeviceMask::new(&kernels, mask)?.apply(&kernels, &ones)?;
    Ok(Some(Kernels::tensor(factors, shape)))
}
