use candle_core::{DType, Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Pointer, RowCopy};

/// Copies the rows, which have equal shapes, to `to` in f32.
pub(crate) fn copy_rows(to: &Tensor, rows: &[Tensor]) -> Result<Option<()>> {
    let Some(kernels) = rows.first().and_then(Kernels::of) else { return Ok(None) };
    let elements = rows[0].elem_count();
    let serves = rows.iter().all(|row| row.elem_count() == elements && kernels.serve(row))
        && to.dtype() == DType::F32
        && kernels.is_on_device(to)
        && to.is_contiguous()
        && to.elem_count() == rows.len() * elements;
    if !serves {
        return Ok(None);
    }
    let inputs: Vec<&Tensor> = rows.iter().chain([to]).collect();
    let launches = |places: &[Pointer], _: &[Pointer]| {
        let (from, to) = places.split_at(rows.len());
        RowCopy { from, to: to[0], elements }.launches(kernels.element())
    };
    // SAFETY: each row has `elements` elements, and `to` has room for all of them.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [], launches) }.map(Some)
}
