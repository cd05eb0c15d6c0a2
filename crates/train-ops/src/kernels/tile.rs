//! A small block of the result, kept in registers while `k` runs.

use super::simd::Simd;

/// Where the tiles of a row of tiles find their factors. Lengths are in units.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) units: usize,
    /// Rows `a_stride` apart, whose units are `a_step` apart.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    pub(super) a_step: usize,
    /// `units` rows of two vectors each, `b_step` apart.
    pub(super) b: *const u32,
    pub(super) b_step: usize,
    /// What is brought near while the tile is computed, from here on: any address will do.
    pub(super) ahead: *const u32,
    /// Lines of it for each [`STRETCH`] units.
    pub(super) ahead_lines: usize,
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
/// # Safety
/// - The processor has the instruction set `S`.
/// - `a` is valid for `ROWS` rows and `b` for `units`, as [`Factors`] says; `from` and `to` for `ROWS` rows of
///   `VECTORS * LANES`, `from_stride` and `to_stride` apart. `to` may be `from`.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    factors: &Factors,
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
        let Factors { a_stride, a_step, a, mut b, b_step, mut ahead, ahead_lines, .. } = *factors;
        // A pointer for every third row; the two rows after it are a stride or two further, which an instruction adds for
        // free. With one pointer for all rows, each would be an addition after the one before it, and a unit of 14 rows
        // would wait for 14 of them: as long as it takes to multiply. Compilers prefer that, so they must not see how the
        // pointers hang together.
        let mut thirds: [*const u32; 5] = std::array::from_fn(|third| a.wrapping_add(3 * third * a_stride));
        let mut left = factors.units;
        while left > 0 {
            let stretch = left.min(STRETCH);
            for _ in 0..ahead_lines {
                S::prefetch_far(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            for _ in 0..stretch {
                let mut vectors = [S::zero(); VECTORS];
                for (at, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(b.add(at * S::LANES));
                }
                // Row by row without a loop, which compilers would keep for so many rows, and the sums in memory.
                macro_rules! rows {
                    ($($row:literal)*) => {
                        $(if let Some(sums) = sums.get_mut($row) {
                            let a = S::splat(thirds[$row / 3].wrapping_add($row % 3 * a_stride));
                            for (sum, vector) in sums.iter_mut().zip(vectors) {
                                *sum = S::multiply_add(a, vector, *sum);
                            }
                        })*
                    };
                }
                rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
                for third in &mut thirds[..ROWS.div_ceil(3)] {
                    *third = S::opaque(third.wrapping_add(a_step));
                }
                b = b.wrapping_add(b_step);
            }
            left -= stretch;
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let (from, to) = (from.add(row * from_stride), to.add(row * to_stride));
            for (at, sum) in sums.into_iter().enumerate() {
                let at = at * S::LANES;
                S::store(to.add(at), S::add(S::load(from.add(at)), sum));
            }
        }
    }
}
