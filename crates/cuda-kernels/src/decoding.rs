use crate::launch::{Arguments, GRID, at_most, pick, size, sized_kernels};
use crate::{Element, Error, Launch, Pointer, Result};

/// Attention of decoding, in inference: the newest tokens of each sequence over the tokens of its image and its own text tokens
/// up to themselves, whose keys and values lie in slots of a cache.
#[derive(Clone, Debug)]
pub struct DecodingAttention {
    /// `(rows, new tokens, heads, head_dim)`.
    pub query: Pointer,
    /// Keys and values of the images, each `(images, image tokens, heads, head_dim)`.
    pub image: [Pointer; 2],
    /// Keys and values of text tokens, each `(slots, heads, head_dim)`.
    pub text: [Pointer; 2],
    /// The result, as the query.
    pub context: Pointer,
    /// The image of each row, u32.
    pub images: Pointer,
    /// Text tokens of each row, the new ones included, u32.
    pub lengths: Pointer,
    /// The slots of each row's text tokens, `(rows, most tokens)`, u32.
    pub slots: Pointer,
    /// Number of sequences.
    pub rows: usize,
    /// New tokens of each of them.
    pub new_tokens: usize,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head, up to 64.
    pub head_dim: usize,
    /// Tokens of an image; 0 if the image is not seen.
    pub image_tokens: usize,
    /// Text tokens that there are slots for; 0 if the text is not seen.
    pub most_tokens: usize,
}

const THREADS: u32 = 256;
const HEAD_DIMS: [usize; 2] = [32, 64];

impl DecodingAttention {
    /// The kernel.
    ///
    /// # Errors
    /// If neither image nor text is seen, heads have more than 64 features or none, or a size is beyond the limits of a grid.
    pub fn launch(&self, element: Element) -> Result<Launch> {
        let kernel = "decoding_attention";
        if self.image_tokens + self.most_tokens == 0 || self.head_dim == 0 {
            return Err(Error::Mismatch {
                kernel,
                expected: "keys and features, none of them 0".to_owned(),
                got: format!("{} features", self.head_dim),
            });
        }
        let head_dim = at_most(kernel, "features of a head", self.head_dim, HEAD_DIMS[1])?;
        let heads = at_most(kernel, "heads", self.heads, GRID)?;
        let blocks = size(kernel, "queries", self.rows.saturating_mul(self.new_tokens))?;
        let pointers = [self.query, self.image[0], self.image[1], self.text[0], self.text[1]];
        let aligned = element.aligned(self.head_dim, &pointers);
        let arguments = Arguments::default()
            .pointers(&pointers)
            .pointers(&[self.context, self.images, self.lengths, self.slots])
            .u32s(&[self.new_tokens as u32, heads, head_dim])
            .u32s(&[
                size(kernel, "image tokens", self.image_tokens)?,
                size(kernel, "tokens", self.most_tokens)?,
            ])
            .f32((1.0 / (self.head_dim as f64).sqrt()) as f32)
            .u32(u32::from(aligned));
        let names = sized_kernels!("decoding_attention", "32", "64");
        let function = pick(names, element, self.head_dim > HEAD_DIMS[0]);
        Ok(Launch::new(kernel, function, [blocks, heads, 1], THREADS, arguments))
    }
}
