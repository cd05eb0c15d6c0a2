use candle_core::{Result, Shape, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Pointer, TopCandidates};

/// The largest logits of each row, as `TopLogits::unpack` reads them.
pub(crate) fn packed_top_logits(logits: &Tensor, count: usize) -> Result<Option<Tensor>> {
    let (rows, vocabulary) = logits.dims2()?;
    let Some(kernels) = Kernels::of(logits).filter(|_| rows > 0) else { return Ok(None) };
    let logits = logits.contiguous()?;
    // Logits, ids and sums of 4 bytes each in one piece of memory, which is copied at once.
    let (all, len) = (rows * count, rows * (2 * count + 1));
    let mut found = kernels.floats(len)?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let from = |first: usize| Pointer(outputs[0].0 + (first * size_of::<f32>()) as u64);
        let operation = TopCandidates {
            logits: inputs[0],
            values: from(0),
            ids: from(all),
            log_sums: from(2 * all),
            rows,
            vocabulary,
            stride: vocabulary,
            count,
        };
        Ok(vec![operation.launch(kernels.element())?])
    };
    // SAFETY: there is room for `count` logits and ids and a sum of each row.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&[&logits], &mut [&mut found], launches) }?;
    Ok(Some(Kernels::tensor(found, &Shape::from(len))))
}
