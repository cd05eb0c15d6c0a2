use candle_core::backend::BackendStorage;
use candle_core::{DType, Result, Shape, Storage, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{Pointer, RowAdd};

use super::node::node;

/// The rows `ids` of `xs` `(rows, columns)`. The backward pass adds in one launch, with a block for each row: that of candle's has one
/// block in all.
pub(crate) fn select_rows(xs: &Tensor, ids: &Tensor) -> Result<Option<Tensor>> {
    let Some(kernels) = Kernels::of(xs).filter(|_| ids.dtype() == DType::U32) else { return Ok(None) };
    let ((sum_rows, columns), count) = (xs.dims2()?, ids.dims1()?);
    let (xs, ids) = (xs.contiguous()?, ids.contiguous()?);
    let rows = {
        let (x, x_layout) = xs.storage_and_layout();
        let (id, id_layout) = ids.storage_and_layout();
        let (Storage::Cuda(x), Storage::Cuda(id)) = (&*x, &*id) else { return Ok(None) };
        x.index_select(id, x_layout, id_layout, 0)?
    };
    let backward = move |dys: &Tensor| {
        let mut sums = kernels.activations(sum_rows * columns)?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let (rows, ids, sums) = (inputs[0], inputs[1], outputs[0]);
            Ok(vec![RowAdd { rows, ids, sums, count, columns, sum_rows }.launch(kernels.element())?])
        };
        // SAFETY: the gradient has `count` rows, whose ids are below `sum_rows`, and there are as many sums.
        #[allow(unsafe_code)]
        unsafe { kernels.run(&[dys, &ids], &mut [&mut sums], launches) }?;
        Ok(Kernels::tensor(sums, &Shape::from((sum_rows, columns))))
    };
    node("select_rows", &xs, rows, (count, columns), backward).map(Some)
}
