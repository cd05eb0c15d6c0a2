use crate::launch::{Arguments, size};
use crate::{Element, Error, Launch, Pointer, Result};

/// The `count` largest logits of each row in descending order, equal ones in the order of their ids, and `log Σⱼ exp(zⱼ)`. NaN is a
/// candidate like -infinity, and its value is -infinity; it makes the logarithm of the row NaN.
#[derive(Clone, Debug)]
pub struct TopCandidates {
    /// `(rows, stride)`.
    pub logits: Pointer,
    /// `(rows, count)` in f32.
    pub values: Pointer,
    /// `(rows, count)` u32.
    pub ids: Pointer,
    /// An f32 for each row.
    pub log_sums: Pointer,
    /// Number of rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocabulary: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Candidates of a row.
    pub count: usize,
}

const THREADS: u32 = 512;

impl TopCandidates {
    /// The kernel.
    ///
    /// # Errors
    /// If `count` is 0 or more than the vocabulary.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let kernel = "top_candidates";
        if self.count == 0 || self.count > self.vocabulary {
            return Err(Error::Mismatch {
                kernel,
                expected: format!("1 to {} candidates, the size of the vocabulary", self.vocabulary),
                got: self.count.to_string(),
            });
        }
        let arguments =
            Arguments::default().pointers(&[self.logits, self.values, self.ids, self.log_sums]).u32s(&[
                self.vocabulary as u32,
                size(kernel, "logits of a row", self.stride)?,
                self.count as u32,
            ]);
        let function = match element {
            Element::F32 => "top_candidates_f32",
            Element::Bf16 => "top_candidates_bf16",
        };
        Ok(Launch::new(kernel, function, [size(kernel, "rows", self.rows)?, 1, 1], THREADS, arguments))
    }
}
