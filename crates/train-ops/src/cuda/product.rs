use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Result, Storage, Tensor, bail};

use crate::{FrozenLinear, LinearLayer};

/// `xs Wᵀ` in the type of `xs`, contiguous rows `(rows, in_features)`, as memory that nothing else refers to: a tensor's could not be
/// taken out of it without a copy.
pub(super) fn product(xs: &Tensor, base: &FrozenLinear) -> Result<CudaStorage> {
    let weight = base.weight().map_err(candle_core::Error::wrap)?;
    let (x, x_layout) = xs.storage_and_layout();
    let (w, w_layout) = weight.storage_and_layout();
    let (Storage::Cuda(x), Storage::Cuda(w)) = (&*x, &*w) else {
        bail!("{}: weight and input are on different devices", base.path())
    };
    let sizes = (1, xs.dim(0)?, base.out_features(), base.in_features());
    let transposed = w_layout.transpose(0, 1)?;
    if xs.dtype() == weight.dtype() {
        return x.matmul(w, sizes, x_layout, &transposed);
    }
    // The product is in the type of the weight.
    let narrowed = xs.to_dtype(weight.dtype())?;
    let (x, x_layout) = narrowed.storage_and_layout();
    let Storage::Cuda(x) = &*x else { bail!("{}: the input is not on a GPU", base.path()) };
    let ys = x.matmul(w, sizes, x_layout, &transposed)?;
    let ys_layout = candle_core::Layout::contiguous((sizes.1, sizes.2));
    ys.to_dtype(&ys_layout, xs.dtype())
}
