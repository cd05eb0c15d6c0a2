//! A small block of the result, kept in registers while `k` runs.

use super::simd::Simd;

/// Rows of `ROWS` units `a`, times two vectors of `b` a unit, added to what `from` holds:
///
/// ```text
/// to[i][0..2 * LANES] = from[i][0..2 * LANES] + Σₖ a[i][k] b[k][0..2 * LANES]
/// ```
///
/// # Safety
/// - The processor has the instruction set `S`.
/// - `a` is valid for `ROWS` rows of `units` units, `a_stride` apart; `b` for `units` rows of `2 * LANES`, one after
///   another; `from` and `to` for `ROWS` rows of `2 * LANES`, `from_stride` and `to_stride` apart. `to` may be `from`.
#[inline(always)]
#[allow(unsafe_code, clippy::too_many_arguments)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize>(
    units: usize,
    a: *const u32,
    a_stride: usize,
    b: *const u32,
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
        let mut sums = [[S::zero(); 2]; ROWS];
        let (mut a, mut b) = (a, b);
        for _ in 0..units {
            let (left, right) = (S::load(b), S::load(b.add(S::LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = S::splat(a.add(row * a_stride));
                sums[0] = S::multiply_add(a, left, sums[0]);
                sums[1] = S::multiply_add(a, right, sums[1]);
            }
            a = a.add(1);
            b = b.add(2 * S::LANES);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let (from, to) = (from.add(row * from_stride), to.add(row * to_stride));
            S::store(to, S::add(S::load(from), sums[0]));
            S::store(to.add(S::LANES), S::add(S::load(from.add(S::LANES)), sums[1]));
        }
    }
}
