use crate::launch::{Arguments, element_kernels, pick, size};
use crate::{Element, Launch, Pointer, Result};

/// Writes the keys and values of the newest tokens of sequences to the slots of a cache: token `t` of the `new_tokens` of row `r`
/// to slot `slots[r][lengths[r] - new_tokens + t]`.
#[derive(Clone, Debug)]
pub struct CacheWrite {
    /// Keys and values, each `(rows, new tokens, width)`.
    pub tokens: [Pointer; 2],
    /// Keys and values of the cache, each `(slots, width)`.
    pub cache: [Pointer; 2],
    /// Text tokens of each row, the new ones included, u32.
    pub lengths: Pointer,
    /// The slots of each row's text tokens, `(rows, most tokens)`, u32; those of new tokens are different.
    pub slots: Pointer,
    /// Number of sequences.
    pub rows: usize,
    /// New tokens of each of them.
    pub new_tokens: usize,
    /// Elements of a key or value.
    pub width: usize,
    /// Slots of a row of the table.
    pub most_tokens: usize,
}

const THREADS: u32 = 128;

impl CacheWrite {
    /// The kernel.
    ///
    /// # Errors
    /// If a size is beyond the limits of a grid.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let kernel = "cache_write";
        let blocks = size(kernel, "tokens", self.rows.saturating_mul(self.new_tokens))?;
        let vectors = element.aligned(self.width, &[self.tokens, self.cache].concat());
        let arguments = Arguments::default()
            .pointers(&[self.tokens, self.cache].concat())
            .pointers(&[self.lengths, self.slots])
            .u32s(&[
                self.new_tokens as u32,
                size(kernel, "elements of a key", self.width)?,
                size(kernel, "tokens", self.most_tokens)?,
            ]);
        let function = pick(element_kernels!("cache_write"), element, !vectors);
        Ok(Launch::new(kernel, function, [blocks, 2, 1], THREADS, arguments))
    }
}
