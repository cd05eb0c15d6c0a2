use candle_core::{DType, Tensor};

/// Whether every element is a finite number.
pub(crate) fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    // 0 x NaN and 0 x infinity are NaN, and the sum of anything with NaN is NaN.
    let zero = (tensor.to_dtype(DType::F32)? * 0.0)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}
