use rayon::prelude::*;

/// Rows of host memory. The distance from one to the next may be larger than their width.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: &'a [f32],
    width: usize,
    stride: usize,
}

/// f32 values in a cache line.
const LINE: usize = 16;

/// The distance from one row of `width` values to the next at which products read them fastest. This is the
/// width, plus a cache line if rows would otherwise be a multiple of 4 KiB apart and so compete for the same
/// few cache lines.
pub fn leading_dimension(width: usize) -> usize {
    if width.is_multiple_of(1024) { width + LINE } else { width }
}

impl<'a> Rows<'a> {
    /// Rows of `width` values without gaps.
    pub fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, width, stride: width }
    }

    /// Rows of `width` values at a distance of [`leading_dimension`].
    pub fn padded(values: &'a [f32], width: usize) -> Self {
        Self { values, width, stride: leading_dimension(width) }
    }

    /// Number of rows.
    #[inline]
    pub fn count(&self) -> usize {
        self.values.len() / self.stride.max(1)
    }

    /// Values of a row.
    #[inline]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The distance from one row to the next.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// All values, including gaps.
    #[inline]
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The rows, in parallel.
    pub(crate) fn par_iter(&self) -> impl IndexedParallelIterator<Item = &'a [f32]> {
        let width = self.width;
        self.values.par_chunks(self.stride.max(1)).map(move |row| &row[..width])
    }
}
