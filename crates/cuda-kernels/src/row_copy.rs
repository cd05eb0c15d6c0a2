use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// Copies rows from several places to memory where they lie one after the other, as f32.
#[derive(Clone, Debug)]
pub struct RowCopy<'a> {
    /// Each row, `(elements)` of the type of activations.
    pub from: &'a [Pointer],
    /// `(rows, elements)` in f32.
    pub to: Pointer,
    /// Elements of a row.
    pub elements: usize,
}

const THREADS: usize = 256;
/// Rows of a launch, whose places are its argument.
const MOST_ROWS: usize = 32;

impl RowCopy<'_> {
    /// The kernel, once for every 32 rows.
    ///
    /// # Errors
    /// If a size is beyond the limits of a grid.
    pub fn launches(&self, element: Element) -> Result<Vec<Launch>> {
        let rows_of_launch = |(index, from): (usize, &[Pointer])| {
            let bytes = index * MOST_ROWS * self.elements * Element::F32.size();
            let to = Pointer(self.to.0 + bytes as u64);
            let vectors = element.aligned(self.elements, from) && Element::F32.aligned(self.elements, &[to]);
            let vector = if vectors { element.vector() } else { 1 };
            let mut places = from.to_vec();
            places.resize(MOST_ROWS, Pointer::NULL);
            let arguments =
                Arguments::default().pointers(&places).pointer(to).pointer(Pointer(self.elements as u64));
            let blocks = size("row_copy", "elements of a row", self.elements.div_ceil(vector * THREADS))?;
            let function = pick(element_kernels!("row_copy"), element, !vectors);
            let grid = [blocks, from.len() as u32, 1];
            Ok(Launch::new("row_copy", function, grid, THREADS as u32, arguments))
        };
        self.from.chunks(MOST_ROWS).enumerate().map(rows_of_launch).collect()
    }
}
