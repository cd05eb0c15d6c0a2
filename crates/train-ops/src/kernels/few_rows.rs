//! Products of a few rows, as in decoding: each weight is used a few times only, so they are as fast as weights come from
//! memory.
//!
//! A task reads the panels of its columns from the first byte to the last, once, in the order they lie in memory, and widens
//! what is not f32 in registers. The sums are those of the blocks of [`product`](super::product()), in the same order: the
//! same bits.

// SAFETY (of every block in this file): the caller of `FewRows::run` vouches for the instruction set and for the pointers in
// `FewRows` and their extents. Rows of a tile and columns of a panel lie within them; a panel that is cut off goes by way
// of an array of as many rows and columns as a tile has at most.
#![allow(unsafe_code)]

use super::simd::{Portable, Simd};
use super::tile::{LINE, STRETCH};
use super::{Isa, PackedMatrix, Precision};

/// The most rows that are worked on this way with `b`: in f32 those of a tile that waits for memory anyway. What is widened
/// is so for each tile of its rows, which is worth while up to four tiles of them.
pub(super) fn most_rows(b: &PackedMatrix) -> usize {
    match b.isa() {
        Isa::Avx512 { .. } if b.widening() > 1 => 48,
        Isa::Avx2 if b.widening() > 1 => 16,
        _ => 4,
    }
}

/// The most rows of a tile: their sums and what is widened stay in registers.
const TILE: usize = 12;

/// `to = from + a b` for at most [`most_rows`] rows of `a` and some panels of `b`.
#[derive(Clone, Copy)]
pub(super) struct FewRows {
    pub(super) rows: usize,
    /// Columns of the result; the last panel may have more.
    pub(super) columns: usize,
    /// Units of a panel, and how many of them have a sum of their own before they are added up.
    pub(super) units: usize,
    pub(super) depth: usize,
    /// `rows` rows: of `units`, or of two or four times as many where pairs or bytes are widened.
    pub(super) a: *const u32,
    pub(super) a_stride: usize,
    /// Panels of `units` rows of the panel width.
    pub(super) b: *const u32,
    pub(super) sums: Sums,
}

/// Where sums begin and end. Rows are `..._stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// What they begin with, for whole panels; null for zeros.
    pub(super) begin: *const f32,
    pub(super) begin_stride: usize,
    /// What the first of them are added to; a stride of 0 repeats one row.
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) to: *mut f32,
    pub(super) to_stride: usize,
}

impl Sums {
    /// Those of other rows and columns.
    fn at(&self, row: usize, column: usize) -> Self {
        Self {
            begin: match self.begin.is_null() {
                true => self.begin,
                false => self.begin.wrapping_add(row * self.begin_stride + column),
            },
            from: self.from.wrapping_add(row * self.from_stride + column),
            to: self.to.wrapping_add(row * self.to_stride + column),
            ..*self
        }
    }
}

impl FewRows {
    /// Computes it.
    ///
    /// # Safety
    /// As for [`Block::run`](super::block::Block::run).
    pub(super) unsafe fn run(&self, isa: Isa, precision: Precision) {
        unsafe {
            match (isa, precision) {
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { bf16: true }, Precision::Bf16) => avx512_bf16(self),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx512 { .. }, precision) => avx512(self, precision),
                #[cfg(target_arch = "x86_64")]
                (Isa::Avx2, precision) => avx2(self, precision),
                (_, precision) => portable(self, precision),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn avx512_bf16(work: &FewRows) {
    // The instruction multiplies pairs as they are.
    unsafe { panels::<super::simd::Avx512Bf16, TILE, 8>(work, Precision::F32) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512(work: &FewRows, precision: Precision) {
    unsafe { panels::<super::simd::Avx512, TILE, 8>(work, precision) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(work: &FewRows, precision: Precision) {
    unsafe { panels::<super::simd::Avx2, 4, 5>(work, precision) }
}

unsafe fn portable(work: &FewRows, precision: Precision) {
    unsafe { panels::<Portable, 4, 4>(work, precision) }
}

/// With tiles of `ROWS` rows at most, and of `BYTE_ROWS` where bytes are widened, which takes more registers.
#[inline(always)]
unsafe fn panels<S: Simd, const ROWS: usize, const BYTE_ROWS: usize>(work: &FewRows, precision: Precision) {
    unsafe {
        match precision {
            Precision::F32 => panel_by_panel::<S, ROWS, 1>(work),
            Precision::Bf16 => panel_by_panel::<S, ROWS, 2>(work),
            Precision::Int8 => panel_by_panel::<S, BYTE_ROWS, 4>(work),
        }
    }
}

/// Each panel for all rows, `ROWS` at a time at most, while it is in a near cache; meanwhile the next one is fetched.
#[inline(always)]
unsafe fn panel_by_panel<S: Simd, const ROWS: usize, const WIDEN: usize>(work: &FewRows) {
    let width = 2 * S::LANES;
    let count = work.rows.div_ceil(ROWS).max(1);
    let (rows_of_all, longer) = (work.rows / count, work.rows % count);
    // One tile alone waits for what it reads; of several each asks for a part of the next panel.
    let lines = if count == 1 { 0 } else { (work.units * width).div_ceil(LINE).div_ceil(count) };
    let ahead_lines = lines.div_ceil(work.units.div_ceil(STRETCH).max(1));
    let mut b = work.b;
    // What is left of a panel when the result has no columns for all of it.
    let mut edge = [0.0f32; TILE * 32];
    let mut first = 0;
    while first < work.columns {
        let columns = width.min(work.columns - first);
        let mut row = 0;
        for index in 0..count {
            let rows = rows_of_all + usize::from(index < longer);
            unsafe {
                let ahead = (b.wrapping_add(work.units * width + index * lines * LINE), ahead_lines);
                let a = work.a.add(row * work.a_stride);
                let sums = work.sums.at(row, first);
                if columns == width {
                    some_rows::<S, ROWS, WIDEN>(rows, work, a, b, sums, ahead);
                } else {
                    let (from, to) = (edge.as_ptr(), edge.as_mut_ptr());
                    for row in 0..rows {
                        sums.from.add(row * sums.from_stride).copy_to(to.add(row * width), columns);
                    }
                    let aside = Sums { from, from_stride: width, to, to_stride: width, ..sums };
                    some_rows::<S, ROWS, WIDEN>(rows, work, a, b, aside, ahead);
                    for row in 0..rows {
                        to.add(row * width).copy_to(sums.to.add(row * sums.to_stride), columns);
                    }
                }
            }
            row += rows;
        }
        b = b.wrapping_add(work.units * width);
        first += columns;
    }
}

/// A panel for `rows` rows, at most `ROWS`.
#[inline(always)]
unsafe fn some_rows<S: Simd, const ROWS: usize, const WIDEN: usize>(
    rows: usize,
    work: &FewRows,
    a: *const u32,
    b: *const u32,
    sums: Sums,
    ahead: (*const u32, usize),
) {
    macro_rules! rows_of {
        ($($n:literal)*) => {
            match rows {
                // The comparison is between constants: more rows than registers hold are never made.
                $($n if $n <= ROWS => unsafe {
                    panel::<S, $n, WIDEN>(work, a, b, sums, ahead)
                },)*
                _ => debug_assert!(false, "more rows than a tile has"),
            }
        };
    }
    rows_of!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// One panel, all of `k`.
#[inline(always)]
unsafe fn panel<S: Simd, const ROWS: usize, const WIDEN: usize>(
    work: &FewRows,
    mut a: *const u32,
    mut b: *const u32,
    Sums { begin, begin_stride, mut from, mut from_stride, to, to_stride }: Sums,
    (mut ahead, ahead_lines): (*const u32, usize),
) {
    unsafe {
        let mut sums = [[S::zero(); 2]; ROWS];
        if !begin.is_null() {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(begin.add(row * begin_stride + at * S::LANES).cast());
                }
            }
        }
        let mut left = work.units;
        loop {
            let depth = left.min(work.depth);
            for unit in 0..depth {
                if unit.is_multiple_of(STRETCH) {
                    for _ in 0..ahead_lines {
                        S::prefetch_far(ahead);
                        ahead = ahead.wrapping_add(LINE);
                    }
                }
                S::prefetch(b.wrapping_add(AHEAD));
                let vectors = [S::load(b), S::load(b.add(S::LANES))];
                // What is widened is used up by all rows before the next of it is needed, so that compilers can spare registers.
                if WIDEN == 4 {
                    let [first, second] = [S::widen_bytes(vectors[0]), S::widen_bytes(vectors[1])];
                    for k in 0..4 {
                        add_products::<S, ROWS>(a.add(k), work.a_stride, [first[k], second[k]], &mut sums);
                    }
                } else if WIDEN == 2 {
                    let [first, second] = [S::widen(vectors[0]), S::widen(vectors[1])];
                    add_products::<S, ROWS>(a, work.a_stride, [first.0, second.0], &mut sums);
                    add_products::<S, ROWS>(a.add(1), work.a_stride, [first.1, second.1], &mut sums);
                } else {
                    add_products::<S, ROWS>(a, work.a_stride, vectors, &mut sums);
                }
                a = a.add(WIDEN);
                b = b.add(2 * S::LANES);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let (from, to) = (from.add(row * from_stride), to.add(row * to_stride).cast::<u32>());
                for (at, sum) in sums.into_iter().enumerate() {
                    let from = S::load(from.cast::<u32>().add(at * S::LANES));
                    S::store(to.add(at * S::LANES), S::add(from, sum));
                }
            }
            left -= depth;
            if left == 0 {
                break;
            }
            // What the next units are added to.
            (from, from_stride) = (to.cast_const(), to_stride);
            sums = [[S::zero(); 2]; ROWS];
        }
    }
}

/// `sums += a b` for one `k` of each row.
#[inline(always)]
unsafe fn add_products<S: Simd, const ROWS: usize>(
    a: *const u32,
    a_stride: usize,
    b: [S::Vector; 2],
    sums: &mut [[S::Vector; 2]; ROWS],
) {
    for (row, sums) in sums.iter_mut().enumerate() {
        unsafe {
            let a = S::splat(a.add(row * a_stride));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = S::multiply_add(a, b, *sum);
            }
        }
    }
}

/// Units ahead that are asked for, 2 KiB: what the processor's own prefetching leaves open at the ends of pages.
const AHEAD: usize = 512;
