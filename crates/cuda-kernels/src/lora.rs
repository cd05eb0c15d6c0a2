use crate::launch::{Arguments, GRID, at_most, pick, size, sized_kernels};
use crate::{Element, Error, Launch, Mask, Pointer, Result};

/// The products of a low-rank adapter (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>) beside those with the frozen weight,
/// which the caller computes first:
///
/// ```text
/// forward     h = drop(xs) Aᵀ       ys += bias + s h Bᵀ
/// backward    dh = s dys B          dxs += mask ∘ (dh A)       dA = dhᵀ drop(xs)       dB = s dysᵀ h
/// ```
///
/// `A` and `B` are f32 and are rounded to the type of activations where they meet them; `h` and `dh` are stored in f32.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `(rank, in_features)` in f32.
    pub a: Pointer,
    /// `(out_features, rank)` in f32.
    pub b: Pointer,
    /// The frozen layer's bias, `(out_features)` in f32; null if it has none.
    pub bias: Pointer,
    /// Rows of activations.
    pub rows: usize,
    /// Features of `xs`.
    pub in_features: usize,
    /// Features of `ys`.
    pub out_features: usize,
    /// Rank, up to 64.
    pub rank: usize,
    /// `s`.
    pub scale: f32,
    /// The mask of `xs`.
    pub mask: Mask,
}

/// The sources of the gradients of `A` and `B`, and their destinations.
#[derive(Clone, Copy, Debug)]
pub struct LoraGradients {
    /// `(rows, in_features)`.
    pub xs: Pointer,
    /// `h`, as the forward pass wrote it.
    pub hidden: Pointer,
    /// `(rows, out_features)`.
    pub dys: Pointer,
    /// `dh`, as [`Lora::backward`] wrote it.
    pub dhidden: Pointer,
    /// Scratch memory of [`Lora::partial_len`] f32.
    pub partial: Pointer,
    /// `(rank, in_features)` in f32.
    pub da: Pointer,
    /// `(out_features, rank)` in f32.
    pub db: Pointer,
}

/// Threads of a block of the gradients.
const THREADS: u32 = 128;
/// Ranks that the kernels are compiled for. Smaller ones are padded with zeros.
const RANKS: [usize; 2] = [16, 64];
/// Rows of a block of the products with activations.
const ROWS: usize = 16;
/// Columns of a warp's tiles.
const COLUMNS: usize = 64;
/// Blocks that a GPU runs at a time, about: where there are fewer, several blocks share the results of the same rows.
const BLOCKS: usize = 128;
/// Rows whose part of the gradients a block computes, and features of a block.
const GRADIENT_ROWS: usize = 256;
const FEATURES: usize = 64;
const SUM_THREADS: usize = 256;

impl Lora {
    /// The kernel that computes `hidden`, `(rows, rank)` in f32, from `xs`, and adds to `ys`.
    ///
    /// # Errors
    /// If the rank is 0 or above 64, or a size is beyond the limits of a grid.
    pub fn forward(&self, element: Element, xs: Pointer, hidden: Pointer, ys: Pointer) -> Result<Launch> {
        self.launch(sized_kernels!("lora_forward", "16", "64"), element, [xs, ys, hidden])
    }

    /// The kernel that computes `dhidden`, `(rows, rank)` in f32, from `dys`, and adds to `dxs`, if that is not null.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(&self, element: Element, dys: Pointer, dhidden: Pointer, dxs: Pointer) -> Result<Launch> {
        self.launch(sized_kernels!("lora_backward", "16", "64"), element, [dys, dxs, dhidden])
    }

    fn check(&self) -> Result<u32> {
        if self.rank == 0 {
            let (expected, got) = ("a rank of at least 1".to_owned(), "0".to_owned());
            return Err(Error::Mismatch { kernel: "lora", expected, got });
        }
        at_most("lora", "ranks", self.rank, RANKS[1])
    }

    fn large(&self) -> bool {
        self.rank > RANKS[0]
    }

    fn launch(
        &self,
        names: [[&'static str; 2]; 2],
        element: Element,
        [xs, ys, hidden]: [Pointer; 3],
    ) -> Result<Launch> {
        let rank = self.check()?;
        let rows = size("lora", "rows", self.rows)?;
        let aligned = |features: usize| element.aligned(features, &[xs, ys]);
        let arguments = Arguments::default()
            .pointers(&[xs, ys, self.a, self.b, hidden, self.bias])
            .u32s(&[rows, size("lora", "in_features", self.in_features)?])
            .u32s(&[size("lora", "out_features", self.out_features)?, rank])
            .f32(self.scale)
            .mask(&self.mask)
            .u32s(&[
                u32::from(aligned(self.in_features) && aligned(self.out_features)),
                u32::from(Element::F32.aligned(self.in_features, &[self.a])),
                u32::from(Element::F32.aligned(self.rank, &[self.b])),
            ]);
        let function = pick(names, element, self.large());
        let warps = if element == Element::Bf16 && !self.large() { 8 } else { 4 };
        let blocks = self.rows.div_ceil(ROWS);
        // No more than have columns each.
        let features = self.in_features.max(self.out_features);
        let shares = (BLOCKS / blocks.max(1)).clamp(1, features.div_ceil(warps * COLUMNS).max(1));
        let grid = [blocks as u32, shares as u32, 1];
        let mut launch = Launch::new("lora", function, grid, 32 * warps as u32, arguments);
        // Tiles of a warp: sums in f32, whose place rows have before, and a factor. Rows are 16 bytes longer than their columns.
        let tiles =
            ROWS * (COLUMNS * 4 + 16) + RANKS[usize::from(self.large())] * (COLUMNS * element.size() + 16);
        launch.shared_bytes = (warps * tiles) as u32;
        Ok(launch)
    }

    fn parts(&self) -> usize {
        self.rows.div_ceil(GRADIENT_ROWS).max(1)
    }

    /// Number of f32 of the scratch memory for the gradients.
    pub fn partial_len(&self) -> usize {
        self.parts() * self.rank * (self.in_features + self.out_features)
    }

    /// The two kernels that compute the gradients of `A` and `B`, in the order in which they must run.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn gradients(&self, element: Element, of: &LoraGradients) -> Result<[Launch; 2]> {
        let rank = self.check()?;
        let parts = at_most("lora_gradient", "parts of the rows", self.parts(), GRID)?;
        let of_b = Pointer(of.partial.0 + 4 * (self.parts() * self.in_features * self.rank) as u64);
        let problem = |arguments: Arguments, pointers: [Pointer; 4], features: usize, of_a: bool| {
            let features = size("lora_gradient", "features", features)?;
            let (scale, mask) = if of_a { (1.0, self.mask) } else { (self.scale, Mask::NONE) };
            let vectors = element.aligned(features as usize, &[pointers[0]]);
            Ok::<_, Error>(
                arguments
                    .pointers(&pointers)
                    .u32s(&[features, u32::from(of_a)])
                    .f32(scale)
                    .u32(u32::from(vectors))
                    .mask(&mask)
                    .end_of_struct(),
            )
        };
        let arguments = || {
            let (a, b) = ([of.xs, of.dhidden, of.partial, of.da], [of.dys, of.hidden, of_b, of.db]);
            let arguments = problem(Arguments::default(), a, self.in_features, true)?;
            let arguments = problem(arguments, b, self.out_features, false)?;
            Ok::<_, Error>(arguments.u32s(&[
                size("lora_gradient", "rows", self.rows)?,
                rank,
                parts,
                GRADIENT_ROWS as u32,
                u32::from(Element::F32.aligned(self.rank, &[of.dhidden])),
                u32::from(Element::F32.aligned(self.rank, &[of.hidden])),
            ]))
        };
        let features = self.in_features.max(self.out_features);
        let names = sized_kernels!("lora_gradient", "16", "64");
        let function = pick(names, element, self.large());
        let grid = [features.div_ceil(FEATURES) as u32, parts, 2];
        let elements = size("lora_gradient_sum", "elements", features.saturating_mul(self.rank))?;
        let sum_grid = [elements.div_ceil(SUM_THREADS as u32), 1, 2];
        Ok([
            Launch::new("lora_gradient", function, grid, THREADS, arguments()?),
            Launch::new("lora_gradient", "lora_gradient_sum", sum_grid, SUM_THREADS as u32, arguments()?),
        ])
    }
}
