use crate::launch::{Arguments, GRID, at_most, pick, size, sized_kernels};
use crate::{Element, Error, Launch, Mask, Pointer, Result};

/// Multi-head attention, `dropout(softmax(q kᵀ / sqrt(head_dim) + mask)) v` for each head, with the scores computed a tile at a
/// time and never stored (Dao, 2023, <https://arxiv.org/abs/2307.08691>). Cross-attention is the case of other keys than queries.
///
/// Tensors are `(batch, tokens, heads, head_dim)`. Those of queries, keys and values have a distance of tokens each
/// ([`AttentionStrides`]), so that they can be parts of one fused projection.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The queries.
    pub query: Pointer,
    /// The keys.
    pub key: Pointer,
    /// The values.
    pub value: Pointer,
    /// The result, dense.
    pub context: Pointer,
    /// `(batch, heads, queries)` in f32, for the backward pass; null if it is not wanted.
    pub log_sums: Pointer,
    /// Sizes.
    pub sizes: AttentionSizes,
    /// Distances of tokens.
    pub strides: AttentionStrides,
    /// Which keys a query sees.
    pub visible: VisibleKeys,
    /// The number of real keys of each sequence, u32, from 1 to the number of keys: no query sees the padding after them. Null if all
    /// keys are real.
    pub key_lengths: Pointer,
    /// Sequences of a sample of the mask, usually 1.
    pub batch_per_sample: usize,
    /// Dropout of the probabilities. Rows are numbered `head << 20 | query` within a sample.
    pub mask: Mask,
}

/// Sizes of [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSizes {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of `query`.
    pub queries: usize,
    /// Tokens of `key` and `value`.
    pub keys: usize,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head, up to 64.
    pub head_dim: usize,
}

/// Elements from one token to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionStrides {
    /// For the queries and their gradient.
    pub query: usize,
    /// For the keys and their gradient.
    pub key: usize,
    /// For the values and their gradient.
    pub value: usize,
}

impl AttentionStrides {
    /// Strides of dense tensors.
    pub fn dense(sizes: AttentionSizes) -> Self {
        let width = sizes.heads * sizes.head_dim;
        Self { query: width, key: width, value: width }
    }
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisibleKeys {
    /// All.
    All,
    /// A query at position `p` sees the keys before `max(p + 1, prefix)`: tokens of the prefix see each other, the others see
    /// the prefix and all before them.
    CausalAfterPrefix {
        /// Tokens of the prefix.
        prefix: usize,
        /// Position of the first query.
        first_query: usize,
    },
}

/// Further arguments of the backward pass of [`Attention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionGradients {
    /// The gradient of the context, dense.
    pub dcontext: Pointer,
    /// Scratch memory, `(batch, heads, queries)` in f32.
    pub means: Pointer,
    /// The gradient of the queries.
    pub dquery: Pointer,
    /// The gradient of the keys.
    pub dkey: Pointer,
    /// The gradient of the values.
    pub dvalue: Pointer,
}

const THREADS: u32 = 128;
/// Queries or keys of a block.
const TILE: usize = 64;
/// Head dimensions that the kernels are compiled for. Smaller heads are padded in shared memory.
const HEAD_DIMS: [usize; 2] = [32, 64];

impl Attention {
    /// The kernel of the forward pass.
    ///
    /// # Errors
    /// If there are no keys or features, heads have more than 64 features, or a size is beyond the limits of a grid.
    pub fn forward(&self, element: Element) -> Result<Launch> {
        let names = sized_kernels!("attention_forward", "32", "64");
        self.launch("attention_forward", names, element, None, self.sizes.queries, 3)
    }

    /// The two kernels of the backward pass, in the order in which they must run. The forward pass must have written
    /// `context` and `log_sums`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(&self, element: Element, gradients: &AttentionGradients) -> Result<[Launch; 2]> {
        let of_query = sized_kernels!("attention_backward_query", "32", "64");
        let of_key = sized_kernels!("attention_backward_key", "32", "64");
        let (gradients, sizes) = (Some(gradients), self.sizes);
        Ok([
            self.launch("attention_backward_query", of_query, element, gradients, sizes.queries, 4)?,
            self.launch("attention_backward_key", of_key, element, gradients, sizes.keys, 4)?,
        ])
    }

    /// A launch of blocks for `tokens` tokens each, with `tiles` tiles in shared memory.
    fn launch(
        &self,
        module: &'static str,
        names: [[&'static str; 2]; 2],
        element: Element,
        gradients: Option<&AttentionGradients>,
        tokens: usize,
        tiles: usize,
    ) -> Result<Launch> {
        let sizes = self.sizes;
        self.check(module)?;
        let head_dim = at_most(module, "features of a head", sizes.head_dim, HEAD_DIMS[1])?;
        let (heads, batch) =
            (at_most(module, "heads", sizes.heads, GRID)?, at_most(module, "sequences", sizes.batch, GRID)?);
        let width = sizes.heads * sizes.head_dim;
        let strides = [self.strides.query, self.strides.key, self.strides.value];
        let strides =
            [0, 1, 2].map(|i| size(module, "elements from one token to the next", strides[i].max(width)));
        let [query_stride, key_stride, value_stride] = strides;
        let (prefix, first_query) = match self.visible {
            VisibleKeys::All => (sizes.keys, 0),
            VisibleKeys::CausalAfterPrefix { prefix, first_query } => (prefix, first_query),
        };
        let none = Pointer::NULL;
        let [dcontext, means, dquery, dkey, dvalue] =
            gradients.map_or([none; 5], |g| [g.dcontext, g.means, g.dquery, g.dkey, g.dvalue]);
        let given = [self.query, self.key, self.value, self.context];
        let aligned = [self.strides.query, self.strides.key, self.strides.value, sizes.head_dim]
            .iter()
            .all(|elements| element.aligned(*elements, &[]))
            && element.aligned(width, &[&given[..], &[dcontext, dquery, dkey, dvalue]].concat());
        let arguments = Arguments::default()
            .pointers(&given)
            .pointers(&[self.log_sums, dcontext, means, dquery, dkey, dvalue, self.key_lengths])
            .u32s(&[
                size(module, "queries", sizes.queries)?,
                size(module, "keys", sizes.keys)?,
                heads,
                head_dim,
            ])
            .u32s(&[query_stride?, key_stride?, value_stride?])
            .u32s(&[size(module, "keys of a prefix", prefix)?, size(module, "queries", first_query)?])
            .f32((1.0 / (sizes.head_dim as f64).sqrt()) as f32)
            .u32s(&[u32::from(aligned), size(module, "sequences of a sample", self.batch_per_sample)?])
            .mask(&self.mask);
        let large = sizes.head_dim > HEAD_DIMS[0];
        let row_bytes = HEAD_DIMS[usize::from(large)] * element.size() + 16;
        let blocks = at_most(module, "tokens", tokens, i32::MAX as usize)?.div_ceil(TILE as u32);
        let function = pick(names, element, large);
        let mut launch = Launch::new(module, function, [blocks, heads, batch], THREADS, arguments);
        launch.shared_bytes = (tiles * TILE * row_bytes) as u32;
        Ok(launch)
    }

    fn check(&self, kernel: &'static str) -> Result<()> {
        let sizes = self.sizes;
        if sizes.keys == 0 || sizes.head_dim == 0 || self.batch_per_sample == 0 {
            return Err(Error::Mismatch {
                kernel,
                expected: "keys, features and sequences of a sample, none of them 0".to_owned(),
                got: format!("{sizes:?} and {} sequences of a sample", self.batch_per_sample),
            });
        }
        // The number of a query in a row of the mask.
        at_most(kernel, "queries", sizes.queries, 1 << 20)?;
        Ok(())
    }
}
