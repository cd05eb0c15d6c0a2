//! The micro-kernel: one tile of the result, whose sums stay in registers for all of `k`.

use crate::simd::{self, Simd, opaque};

/// Rows and panels that are multiplied. Lengths are in words.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) words: usize,
    /// Rows `a_stride` apart, whose words are `a_step` apart: 1, or the length of a row where `a` is used transposed.
    pub(crate) a: *const u32,
    pub(crate) a_stride: usize,
    pub(crate) a_step: usize,
    /// Panels of `words` rows of two vectors each, which are `b_step` apart: the panel width, or the length of a row where
    /// the panels are columns of a matrix that is not packed.
    pub(crate) b: *const u32,
    pub(crate) b_step: usize,
    pub(crate) panel_stride: usize,
}

impl Factors {
    /// No factors; their product is zero.
    pub(crate) const NONE: Self = Self {
        words: 0,
        a: std::ptr::null(),
        a_stride: 0,
        a_step: 0,
        b: std::ptr::null(),
        b_step: 0,
        panel_stride: 0,
    };

    /// The factors from row `row` on.
    pub(crate) fn at_row(&self, row: usize) -> Self {
        Self { a: self.a.wrapping_add(row * self.a_stride), ..*self }
    }

    /// The factors from the second panel on.
    pub(crate) fn next_panel(&self) -> Self {
        Self { b: self.b.wrapping_add(self.panel_stride), ..*self }
    }
}

/// Factors whose product is summed first, in the same registers.
#[derive(Clone, Copy)]
pub(crate) struct First {
    pub(crate) factors: Factors,
    /// A bit for each element of the product, which becomes zero if the bit is not set; rows are `mask_stride` bytes apart,
    /// and the first column is the lowest bit of the first byte. Null without a mask.
    pub(crate) mask: *const u8,
    pub(crate) mask_stride: usize,
}

impl First {
    /// As [`Factors::at_row`].
    pub(crate) fn at_row(&self, row: usize) -> Self {
        let mask = self.mask.wrapping_add(row * self.mask_stride);
        Self { factors: self.factors.at_row(row), mask, ..*self }
    }

    /// As [`Factors::next_panel`], for panels of `width` columns.
    pub(crate) fn next_panel(&self, width: usize) -> Self {
        let mask = if self.mask.is_null() { self.mask } else { self.mask.wrapping_add(width / 8) };
        Self { factors: self.factors.next_panel(), mask, ..*self }
    }
}

/// Lines that are prefetched while a tile is computed.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    /// The first of them. It may be any address.
    pub(crate) from: *const u32,
    /// Lines for every [`PREFETCH_INTERVAL`] words.
    pub(crate) lines: usize,
}

/// Words between prefetches.
pub(crate) const PREFETCH_INTERVAL: usize = 16;
/// Words in a cache line.
pub(crate) const LINE: usize = 16;

/// `ROWS` rows of `a` times the first `VECTORS` vectors, one or two, of each row of `b`, added to `from`:
///
/// ```text
/// to[i][0..VECTORS * LANES] = from[i][0..VECTORS * LANES] + Σₖ a[i][k] b[k][0..VECTORS * LANES]
/// ```
///
/// The product `first`, if given, is summed before, and its mask applied: a dropout mask costs one instruction while the sums
/// are in registers. Where `WIDEN` is 2, `b` has pairs of bf16: each row becomes two rows of f32, for the next two words of `a`,
/// whose `a_step` is 1.
///
/// # Safety
/// - The processor has the instruction set `S`.
/// - `a`, `b` and `mask` are valid for `ROWS` rows, `words` rows and `ROWS` rows, as [`Factors`] says; `from` and `to` for
///   `ROWS` rows of `VECTORS * LANES`, `from_stride` and `to_stride` apart. `to` may be `from`.
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
    first: Option<&First>,
    factors: &Factors,
    prefetch: Prefetch,
    from: *const u32,
    from_stride: usize,
    to: *mut u32,
    to_stride: usize,
) {
    // SAFETY: every pointer below stays within what the caller vouches for.
    unsafe {
        // The initial values are needed at the end: prefetch them now.
        for row in 0..ROWS {
            simd::prefetch(from.add(row * from_stride));
        }
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        if let Some(first) = first {
            add_products::<S, ROWS, VECTORS, 1>(&first.factors, Prefetch { lines: 0, ..prefetch }, &mut sums);
            if !first.mask.is_null() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (at, sum) in sums.iter_mut().enumerate() {
                        let mask = first.mask.add(row * first.mask_stride + at * S::LANES / 8);
                        *sum = S::mask(mask, *sum);
                    }
                }
            }
        }
        sum_products::<S, ROWS, VECTORS, WIDEN>(factors, prefetch, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            let (from, to) = (from.add(row * from_stride), to.add(row * to_stride));
            for (at, sum) in sums.into_iter().enumerate() {
                let at = at * S::LANES;
                S::store(to.add(at), S::add(S::load(from.add(at)), sum));
            }
        }
    }
}

/// Adds the products of a tile to its sums, several words of a row at a time where that is faster.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) unsafe fn sum_products<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
    factors: &Factors,
    prefetch: Prefetch,
    sums: &mut [[S::Vector; VECTORS]; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        match S::GROUP > 1 && factors.a_step == 1 {
            true => add_groups::<S, ROWS, VECTORS>(factors, prefetch, sums),
            false => add_products::<S, ROWS, VECTORS, WIDEN>(factors, prefetch, sums),
        }
    }
}

/// Adds the products of a tile to its sums, word by word.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn add_products<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
    factors: &Factors,
    prefetch: Prefetch,
    sums: &mut [[S::Vector; VECTORS]; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        let Factors { a_stride, a_step, a, mut b, b_step, .. } = *factors;
        let Prefetch { from: mut next_line, lines } = prefetch;
        // A pointer for every third row; the two rows after it are one and two strides further, which the
        // addressing mode adds for free. Compilers would otherwise keep one pointer and add the stride row by
        // row, a chain of 14 additions for each word, which takes as long as the multiplications. So the
        // relation between the pointers is hidden from them.
        let mut thirds: [*const u32; 5] = std::array::from_fn(|third| a.wrapping_add(3 * third * a_stride));
        let mut left = factors.words;
        while left > 0 {
            let interval = left.min(PREFETCH_INTERVAL);
            for _ in 0..lines {
                simd::prefetch_far(next_line);
                next_line = next_line.wrapping_add(LINE);
            }
            for _ in 0..interval {
                for part in 0..WIDEN {
                    let mut vectors = [S::zero(); VECTORS];
                    for (at, vector) in vectors.iter_mut().enumerate() {
                        let loaded = S::load(b.add(at * S::LANES));
                        *vector = match (WIDEN, part) {
                            (1, _) => loaded,
                            (_, 0) => S::widen(loaded).0,
                            _ => S::widen(loaded).1,
                        };
                    }
                    // Unrolled by hand, because in a loop over this many rows compilers keep the sums in
                    // memory.
                    macro_rules! rows {
                        ($($row:literal)*) => {
                            $(if let Some(sums) = sums.get_mut($row) {
                                let a = S::splat(thirds[$row / 3].wrapping_add($row % 3 * a_stride + part));
                                for (sum, vector) in sums.iter_mut().zip(vectors) {
                                    *sum = S::multiply_add(a, vector, *sum);
                                }
                            })*
                        };
                    }
                    rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
                    // Pairs are loaded again for their second halves, because there is no register to keep them in.
                    b = if WIDEN > 1 { opaque(b) } else { b };
                }
                for third in &mut thirds[..ROWS.div_ceil(3)] {
                    *third = opaque(third.wrapping_add(WIDEN * a_step));
                }
                b = b.wrapping_add(b_step);
            }
            left -= interval;
        }
    }
}

/// As [`add_products`], several words of each row at a time.
///
/// # Safety
/// As for [`tile`], and the words of a row are neighbours.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn add_groups<S: Simd, const ROWS: usize, const VECTORS: usize>(
    factors: &Factors,
    prefetch: Prefetch,
    sums: &mut [[S::Vector; VECTORS]; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        let Factors { a_stride, mut a, mut b, b_step, .. } = *factors;
        let Prefetch { from: mut next_line, lines } = prefetch;
        let groups = factors.words / S::GROUP;
        let mut left = groups;
        S::exchange_sums(sums);
        while left > 0 {
            let interval = left.min(PREFETCH_INTERVAL / S::GROUP);
            for _ in 0..lines {
                simd::prefetch_far(next_line);
                next_line = next_line.wrapping_add(LINE);
            }
            for _ in 0..interval {
                let rows = std::array::from_fn(|row| a.wrapping_add(row * a_stride));
                S::add_group::<ROWS, VECTORS>(rows, b, b_step, sums);
                // One pointer, to which the addressing mode adds the distance of a row. Compilers would
                // otherwise advance a pointer for each row as a part of its load, which takes as many slots as
                // another instruction.
                a = opaque(a.wrapping_add(S::GROUP));
                b = b.wrapping_add(S::GROUP * b_step);
            }
            left -= interval;
        }
        S::exchange_sums(sums);
        let words = factors.words - groups * S::GROUP;
        let rest = Factors { words, a, b, ..*factors };
        add_products::<S, ROWS, VECTORS, 1>(&rest, Prefetch { lines: 0, ..prefetch }, sums);
    }
}
