//! Single-precision matrix product on slices. The one door to the `gemm` crate.

use gemm::Parallelism;

/// A read-only matrix over a row-major slice, possibly transposed.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A `(rows, cols)` matrix stored row by row in `data`.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// `cols` columns, from `start` on, of a matrix stored row by row with `row_stride` values a row.
    pub(crate) fn columns(
        data: &'a [f32],
        rows: usize,
        row_stride: usize,
        start: usize,
        cols: usize,
    ) -> Self {
        assert!(start + cols <= row_stride && data.len() == rows * row_stride, "columns of a matrix");
        Self { data: &data[start..], rows, cols, row_stride, col_stride: 1 }
    }

    /// Some of the rows.
    pub(crate) fn rows(self, rows: std::ops::Range<usize>) -> Self {
        assert!(rows.end <= self.rows, "rows of a matrix");
        Self { data: &self.data[rows.start * self.row_stride..], rows: rows.len(), ..self }
    }

    /// The transpose, without moving data.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// `dst = keep * dst + scale * lhs * rhs` for a `dst` of `(lhs.rows, rhs.cols)`, whose rows start `dst_stride` values
/// apart. With `keep` 0, what `dst` held is not read. One thread does it, as one of many tasks.
pub(crate) fn matmul(
    dst: &mut [f32],
    dst_stride: usize,
    keep: f32,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (m, k, n) = (lhs.rows, lhs.cols, rhs.cols);
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(k, rhs.rows, "inner dimensions of a matrix product");
    assert!(dst_stride >= n && dst.len() >= (m - 1) * dst_stride + n, "output of a matrix product");
    // SAFETY: `dst`, `lhs` and `rhs` cover every element that their strides reach: checked above for `dst`, and by the
    // constructors of `Matrix` for the other two. `dst` is borrowed mutably, so it overlaps neither of them.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            keep != 0.0,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            keep,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
