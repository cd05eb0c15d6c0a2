use rayon::prelude::*;

/// Rows of host memory, which may lie further apart than they are long.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    width: usize,
    stride: usize,
}

/// A line of the caches.
const LINE: usize = 16;

/// From one row of `width` values to the next in a place that products are to read from: rows a multiple of 4 KiB apart
/// share the few places that the caches have for them.
pub(crate) fn apart(width: usize) -> usize {
    if width.is_multiple_of(1024) { width + LINE } else { width }
}

impl<'a> Rows<'a> {
    /// Rows of `width`, one after another.
    pub(crate) fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, width, stride: width }
    }

    /// Rows of `width` as far from one another as [`apart`] says.
    pub(crate) fn apart(values: &'a [f32], width: usize) -> Self {
        Self { values, width, stride: apart(width) }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.stride.max(1)
    }

    /// Values of each.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// From one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The first row and all that follows.
    pub(crate) fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Row by row.
    pub(crate) fn par_iter(&self) -> impl IndexedParallelIterator<Item = &'a [f32]> {
        let width = self.width;
        self.values.par_chunks(self.stride.max(1)).map(move |row| &row[..width])
    }
}
