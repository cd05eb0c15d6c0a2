use candle_core::{Result, Tensor, bail};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Element, Pointer, TensorCopy};

/// Copies in memory of their own. Loads the kernel of [`copy_tensors`], which cannot be loaded in a recording.
pub(super) fn copies(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let copies =
        tensors.iter().map(|tensor| tensor.detach().force_contiguous()).collect::<Result<Vec<_>>>()?;
    copy_tensors(tensors, &copies)?;
    Ok(copies)
}

/// Copies each tensor to the one at the same place in `to`, which is contiguous, of the same shape and type.
pub(super) fn copy_tensors(from: &[Tensor], to: &[Tensor]) -> Result<()> {
    let mut sources = Vec::with_capacity(from.len());
    let mut sizes = Vec::with_capacity(from.len());
    if from.len() != to.len() {
        bail!("the work of a graph had {} results, and {} when it ran again", to.len(), from.len());
    }
    let Some(first) = to.first() else { return Ok(()) };
    let Some(kernels) = Kernels::on(first.device(), Element::F32) else {
        bail!("the results of a graph are not on its GPU")
    };
    for (from, to) in from.iter().zip(to) {
        if from.shape() != to.shape() || from.dtype() != to.dtype() {
            bail!("a result of a graph was {:?}, and {:?} when its work ran again", to.shape(), from.shape());
        }
        sources.push(aligned(from)?);
        sizes.push(to.elem_count() * to.dtype().size_in_bytes());
    }
    let tensors: Vec<&Tensor> = sources.iter().chain(to).collect();
    let launches = |places: &[Pointer], _: &[Pointer]| {
        let (from, to) = places.split_at(sizes.len());
        let copies = from.iter().zip(to).zip(&sizes);
        TensorCopy::launches(
            &copies
                .map(|((from, to), bytes)| TensorCopy { from: *from, to: *to, bytes: *bytes })
                .collect::<Vec<_>>(),
        )
    };
    // SAFETY: source and destination are contiguous and have the same number of bytes.
    #[allow(unsafe_code)]
    unsafe {
        kernels.run(&tensors, &mut [], launches)
    }
}

/// The tensor without operations, contiguous and beginning at a multiple of 16 bytes, as all memory of the device does.
fn aligned(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.detach().contiguous()?;
    let start = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    if start.is_multiple_of(16) { Ok(tensor) } else { tensor.force_contiguous() }
}
