//! A small block of the result, kept in registers while `k` runs.

use super::simd::Simd;

/// Rows and panels that are multiplied. Lengths are in units.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) units: usize,
    /// Rows `a_stride` apart, whose units are `a_step` apart: 1, or the length of a row where `a` is used transposed.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    pub(super) a_step: usize,
    /// Panels of `units` rows of two vectors each, which are `b_step` apart: the panel width, or the length of a row where
    /// the panels are columns of a matrix that is not packed.
    pub(super) b: *const u32,
    pub(super) b_step: usize,
    pub(super) panel_stride: usize,
}

impl Factors {
    /// None: their product is zero.
    pub(super) const NONE: Self = Self {
        units: 0,
        a: std::ptr::null(),
        a_stride: 0,
        a_step: 0,
        b: std::ptr::null(),
        b_step: 0,
        panel_stride: 0,
    };

    /// Those of the rows from `row` on.
    pub(super) fn at_row(&self, row: usize) -> Self {
        Self { a: self.a.wrapping_add(row * self.a_stride), ..*self }
    }

    /// Those of the panels after the first.
    pub(super) fn next_panel(&self) -> Self {
        Self { b: self.b.wrapping_add(self.panel_stride), ..*self }
    }
}

/// Factors whose product is summed before that of others.
#[derive(Clone, Copy)]
pub(super) struct First {
    pub(super) factors: Factors,
    /// Which elements of the product count: a bit for each, in rows `kept_stride` bytes apart, the first column in the
    /// lowest bit of the first byte. Null where all count.
    pub(super) kept: *const u8,
    pub(super) kept_stride: usize,
}

impl First {
    /// As [`Factors::at_row`].
    pub(super) fn at_row(&self, row: usize) -> Self {
        let kept = self.kept.wrapping_add(row * self.kept_stride);
        Self { factors: self.factors.at_row(row), kept, ..*self }
    }

    /// As [`Factors::next_panel`], for panels of `width` columns.
    pub(super) fn next_panel(&self, width: usize) -> Self {
        let kept = if self.kept.is_null() { self.kept } else { self.kept.wrapping_add(width / 8) };
        Self { factors: self.factors.next_panel(), kept, ..*self }
    }
}

/// What is brought near while a tile is computed.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// From here on: any address will do.
    pub(super) from: *const u32,
    /// Lines for each [`STRETCH`] units.
    pub(super) lines: usize,
}

/// Units between prefetches.
pub(super) const STRETCH: usize = 16;
/// Units in a line of the caches.
pub(super) const LINE: usize = 16;

/// `ROWS` rows of `a` times the first `VECTORS` vectors of each row of `b`, one or two, added to what `from` holds:
///
/// ```text
/// to[i][0..VECTORS * LANES] = from[i][0..VECTORS * LANES] + Σₖ a[i][k] b[k][0..VECTORS * LANES]
/// ```
///
/// The same of `first`, if it is there, of whose elements those count that are kept: a dropout mask of a product costs an
/// instruction while its sums are in registers. They go on to be those of the other factors, whose `b` has pairs of bf16 where
/// `WIDEN` is 2: each becomes two rows of f32, for the next two units of `a`, whose `a_step` is 1.
///
/// # Safety
/// - The processor has the instruction set `S`.
/// - `a`, `b` and `kept` are valid for `ROWS` rows, `units` rows and `ROWS` rows, as [`Factors`] says; `from` and `to` for
///   `ROWS` rows of `VECTORS * LANES`, `from_stride` and `to_stride` apart. `to` may be `from`.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
    first: Option<&First>,
    factors: &Factors,
    ahead: Ahead,
    from: *const u32,
    from_stride: usize,
    to: *mut u32,
    to_stride: usize,
) {
    // SAFETY: every pointer below stays within what the caller vouches for.
    unsafe {
        // What the sums are added to is asked for now and needed when they are done.
        for row in 0..ROWS {
            S::prefetch(from.add(row * from_stride));
        }
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        if let Some(first) = first {
            add_products::<S, ROWS, VECTORS, 1>(&first.factors, Ahead { lines: 0, ..ahead }, &mut sums);
            if !first.kept.is_null() {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (at, sum) in sums.iter_mut().enumerate() {
                        let kept = first.kept.add(row * first.kept_stride + at * S::LANES / 8);
                        *sum = S::keep(kept, *sum);
                    }
                }
            }
        }
        add_products::<S, ROWS, VECTORS, WIDEN>(factors, ahead, &mut sums);
        for (row, sums) in sums.into_iter().enumerate() {
            let (from, to) = (from.add(row * from_stride), to.add(row * to_stride));
            for (at, sum) in sums.into_iter().enumerate() {
                let at = at * S::LANES;
                S::store(to.add(at), S::add(S::load(from.add(at)), sum));
            }
        }
    }
}

/// Adds the products of a tile to its sums.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn add_products<S: Simd, const ROWS: usize, const VECTORS: usize, const WIDEN: usize>(
    factors: &Factors,
    ahead: Ahead,
    sums: &mut [[S::Vector; VECTORS]; ROWS],
) {
    // SAFETY: the caller's.
    unsafe {
        let Factors { a_stride, a_step, a, mut b, b_step, .. } = *factors;
        let Ahead { from: mut ahead, lines } = ahead;
        // A pointer for every third row; the two rows after it are a stride or two further, which an instruction adds for
        // free. With one pointer for all rows, each would be an addition after the one before it, and a unit of 14 rows
        // would wait for 14 of them: as long as it takes to multiply. Compilers prefer that, so they must not see how the
        // pointers hang together.
        let mut thirds: [*const u32; 5] = std::array::from_fn(|third| a.wrapping_add(3 * third * a_stride));
        let mut left = factors.units;
        while left > 0 {
            let stretch = left.min(STRETCH);
            for _ in 0..lines {
                S::prefetch_far(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            for _ in 0..stretch {
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
                    // Row by row without a loop, which compilers would keep for so many rows, and the sums in memory.
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
                    // Pairs are loaded once more for their second halves, which would not find a register until then.
                    b = if WIDEN > 1 { S::opaque(b) } else { b };
                }
                for third in &mut thirds[..ROWS.div_ceil(3)] {
                    *third = S::opaque(third.wrapping_add(WIDEN * a_step));
                }
                b = b.wrapping_add(b_step);
            }
            left -= stretch;
        }
    }
}
