use candle_core::Tensor;

use crate::{Error, Result, cuda};

/// Copies the values of `rows`, which are tensors of one shape on the device of `to`, to `to` `(rows, ...)`, where it is, and converts
/// them to its type. On an NVIDIA GPU with kernels it is one launch for every 32 rows, to f32.
///
/// # Errors
/// [`Error::Shape`] if `to` does not have room for exactly these rows.
pub fn copy_rows(to: &Tensor, rows: &[Tensor]) -> Result<()> {
    let (count, row_shape) = to.dims().split_first().unwrap_or((&0, &[]));
    if let Some(row) = rows.iter().find(|row| row.dims() != row_shape) {
        return Err(unfit(to, rows.len(), row.dims()));
    }
    if *count != rows.len() {
        return Err(unfit(to, rows.len(), row_shape));
    }
    if cuda::copy_rows(to, rows)?.is_some() {
        return Ok(());
    }
    for (place, row) in rows.iter().enumerate() {
        to.slice_set(&row.to_dtype(to.dtype())?.unsqueeze(0)?.contiguous()?, 0, place)?;
    }
    Ok(())
}

fn unfit(to: &Tensor, rows: usize, row: &[usize]) -> Error {
    let expected = format!("{rows} rows of shape {row:?}");
    Error::Shape { path: "destination of copied rows".to_owned(), expected, got: to.dims().to_vec() }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn rows_are_converted_and_must_fill_the_destination() {
        let row = |value: f32| Tensor::full(value, (2, 3), &Device::Cpu).unwrap();
        let to = Tensor::zeros((2, 2, 3), DType::F32, &Device::Cpu).unwrap();
        copy_rows(&to, &[row(1.5).to_dtype(DType::BF16).unwrap(), row(2.5)]).unwrap();
        assert_eq!(to.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [[1.5; 6], [2.5; 6]].concat());
        let error = copy_rows(&to, &[row(1.0)]).unwrap_err().to_string();
        assert!(error.contains("1 rows of shape [2, 3], got [2, 2, 3]"), "{error}");
        assert!(copy_rows(&to, &[row(1.0), row(1.0).flatten_all().unwrap()]).is_err());
    }
}
