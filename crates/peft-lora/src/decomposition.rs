//! Singular value decomposition and QR decomposition, in f64.

use candle_core::{DType, Device, Result, Tensor};
use nalgebra::DMatrix;

/// `W = U S Vᵀ` of a matrix `(rows, columns)`, largest singular values first: `U` `(rows, k)`, `S` `(k)` and `Vᵀ`
/// `(k, columns)`, f32, with `k` the smaller dimension.
pub(crate) fn svd(matrix: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let mut svd = to_nalgebra(matrix)?.svd(true, true);
    svd.sort_by_singular_values();
    let values: Vec<f32> = svd.singular_values.iter().map(|value| *value as f32).collect();
    let values = Tensor::new(values, matrix.device())?;
    match (&svd.u, &svd.v_t) {
        (Some(u), Some(v_t)) => {
            Ok((to_tensor(u, matrix.device())?, values, to_tensor(v_t, matrix.device())?))
        }
        _ => candle_core::bail!("the singular vectors were not computed"),
    }
}

/// `W = Q R` of a matrix `(rows, columns)`: `Q` `(rows, k)` with orthonormal columns and `R` `(k, columns)`, f32, with `k` the
/// smaller dimension.
pub(crate) fn qr(matrix: &Tensor) -> Result<(Tensor, Tensor)> {
    let qr = to_nalgebra(matrix)?.qr();
    Ok((to_tensor(&qr.q(), matrix.device())?, to_tensor(&qr.r(), matrix.device())?))
}

/// [`svd`] of the `rank` largest singular values, by `iterations` subspace iterations that begin with the columns of `start`
/// `(columns, rank)` (Halko, Martinsson and Tropp, 2009, algorithms 4.4 and 5.1, <https://arxiv.org/abs/0909.4061>; as torch's
/// `svd_lowrank`).
pub(crate) fn low_rank_svd(
    matrix: &Tensor,
    start: &Tensor,
    iterations: usize,
) -> Result<(Tensor, Tensor, Tensor)> {
    let transposed = matrix.t()?.contiguous()?;
    let mut basis = qr(&matrix.matmul(start)?)?.0;
    for _ in 0..iterations {
        let of_rows = qr(&transposed.matmul(&basis)?)?.0;
        basis = qr(&matrix.matmul(&of_rows)?)?.0;
    }
    let (u, values, v_t) = svd(&basis.t()?.contiguous()?.matmul(matrix)?)?;
    Ok((basis.matmul(&u)?, values, v_t))
}

fn to_nalgebra(matrix: &Tensor) -> Result<DMatrix<f64>> {
    let (rows, columns) = matrix.dims2()?;
    let values: Vec<f64> = matrix.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    Ok(DMatrix::from_row_iterator(rows, columns, values))
}

fn to_tensor(matrix: &DMatrix<f64>, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = matrix.transpose().iter().map(|value| *value as f32).collect();
    Tensor::from_vec(values, (matrix.nrows(), matrix.ncols()), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(rows: usize, columns: usize) -> Tensor {
        let places = Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu).unwrap();
        places.affine(7.3, 0.1).unwrap().sin().unwrap().reshape((rows, columns)).unwrap()
    }

    fn largest(tensor: Tensor) -> f32 {
        tensor.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    fn product(u: &Tensor, values: &Tensor, v_t: &Tensor) -> Tensor {
        u.broadcast_mul(values).unwrap().matmul(v_t).unwrap()
    }

    /// The largest magnitude in `columnsᵀ columns - 1`.
    fn from_orthonormal(columns: &Tensor) -> f32 {
        let gram = columns.t().unwrap().contiguous().unwrap().matmul(columns).unwrap();
        let one = Tensor::eye(gram.dims()[0], DType::F32, &Device::Cpu).unwrap();
        largest((gram - one).unwrap())
    }

    #[test]
    fn the_factors_are_orthonormal_and_their_product_is_the_matrix() {
        for (rows, columns) in [(5, 9), (9, 5), (6, 6), (1, 4)] {
            let matrix = waves(rows, columns);
            let (u, values, v_t) = svd(&matrix).unwrap();
            assert!(largest((product(&u, &values, &v_t) - &matrix).unwrap()) < 1e-6);
            assert!(
                from_orthonormal(&u) < 1e-6
                    && from_orthonormal(&v_t.t().unwrap().contiguous().unwrap()) < 1e-6
            );
            let values = values.to_vec1::<f32>().unwrap();
            assert!(values.is_sorted_by(|one, other| one >= other), "{values:?}");
            let (q, r) = qr(&matrix).unwrap();
            assert!(
                largest((q.matmul(&r).unwrap() - &matrix).unwrap()) < 1e-6 && from_orthonormal(&q) < 1e-6
            );
        }
    }

    #[test]
    fn subspace_iterations_find_the_largest_singular_values() {
        // Singular values 1, 1/2, 1/4, ...
        let (u, _, v_t) = svd(&waves(12, 8)).unwrap();
        let values: Vec<f32> = (0..8).map(|power| 0.5f32.powi(power)).collect();
        let matrix = product(&u, &Tensor::new(values.clone(), &Device::Cpu).unwrap(), &v_t);
        let (u, found, v_t) = low_rank_svd(&matrix, &waves(8, 3), 16).unwrap();
        let best = [&svd(&matrix).unwrap().0, &u].map(|u| u.narrow(1, 0, 3).unwrap());
        for (found, expected) in found.to_vec1::<f32>().unwrap().iter().zip(&values) {
            assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
        }
        // The same subspace; the signs of its vectors may differ.
        let projection = |u: &Tensor| u.matmul(&u.t().unwrap()).unwrap();
        assert!(
            largest(
                (projection(&best[0].contiguous().unwrap()) - projection(&best[1].contiguous().unwrap()))
                    .unwrap()
            ) < 1e-5
        );
        let rest: f32 = values[3..].iter().map(|value| value * value).sum::<f32>().sqrt();
        let error = (product(&u, &found, &v_t) - &matrix).unwrap().sqr().unwrap().sum_all().unwrap();
        assert!((error.to_scalar::<f32>().unwrap().sqrt() - rest).abs() < 1e-6);
    }
}
