use std::borrow::Cow;
use std::cell::RefCell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::aligned::Aligned;
use super::block::Block;
use super::few_rows::{FEW, FewRows};
use super::panels::{pair, units, widen, widen_bytes};
use super::{Isa, PackedMatrix, Precision};
use crate::dropout::Mask;

/// What the sums of a product begin with.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Zero.
    Zero,
    /// One row, a bias, for every row of the result.
    Bias(&'a [f32]),
}

/// One of the products that are summed, `a b` for rows `a`, with dropout masks where they are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// `(rows, k)`.
    pub(crate) a: &'a [f32],
    /// `(k, n)`.
    pub(crate) b: &'a PackedMatrix,
    /// A mask of `a`; for a `b` in f32.
    pub(crate) a_mask: Option<&'a Mask>,
    /// A mask of `a b`.
    pub(crate) mask: Option<&'a Mask>,
}

impl<'a> Term<'a> {
    /// `a b`.
    pub(crate) fn new(a: &'a [f32], b: &'a PackedMatrix) -> Self {
        Self { a, b, a_mask: None, mask: None }
    }
}

/// Units of `k` that are worked on at a time: a panel of them stays in the first-level cache.
const DEPTH: usize = 256;
/// Rows that a task works on: with `DEPTH` units each, they stay in the second-level cache.
const TASK_ROWS: usize = 144;
/// Tasks for each thread, so that one that is held up does not keep the others waiting.
const TASKS: usize = 6;
/// The same for a few rows, whose tasks are short.
const FEW_TASKS: usize = 4;

thread_local! {
    /// Panels widened to f32, and sums that a mask is applied to.
    static SCRATCH: RefCell<[Aligned; 3]> = RefCell::new(std::array::from_fn(|_| Aligned::zeros(0)));
}

/// `(rows, n)`: `start + Σ mask ∘ ((a_mask ∘ a) b)` over the terms.
pub(crate) fn product(rows: usize, n: usize, start: Start<'_>, terms: &[Term<'_>]) -> Vec<f32> {
    let mut result = Vec::new();
    for term in terms {
        assert!(term.a.len() == rows * term.b.k() && term.b.n() == n, "shapes of a product");
        assert!(term.a_mask.is_none() || term.b.precision() == Precision::F32, "a mask of rounded rows");
    }
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), n, "bias of a product");
    }
    let Some(first) = terms.first().filter(|_| rows * n > 0) else { return vec![0.0; rows * n] };
    result.reserve_exact(rows * n);

    let isa = first.b.isa();
    let operands: Vec<Cow<'_, [u32]>> = terms.iter().map(|term| operand(term)).collect();
    let zeros = match start {
        Start::Zero => vec![0.0; n],
        Start::Bias(_) => Vec::new(),
    };
    let start = match start {
        Start::Zero => zeros.as_slice(),
        Start::Bias(bias) => bias,
    };
    let few = rows <= FEW && terms.iter().all(|term| term.mask.is_none() && term.a_mask.is_none());
    let (task_rows, task_columns) = if few { (rows, few_columns(isa, n)) } else { grid(isa, rows, n) };
    let across = n.div_ceil(task_columns);
    let shared = Shared(result.as_mut_ptr());
    (0..rows.div_ceil(task_rows) * across).into_par_iter().for_each(|task| {
        let (row, column) = (task / across * task_rows, task % across * task_columns);
        let task = Task {
            rows: row..rows.min(row + task_rows),
            columns: column..n.min(column + task_columns),
            n,
            start,
            result: shared.pointer(),
        };
        if few {
            for (index, (term, operand)) in terms.iter().zip(&operands).enumerate() {
                task.add_few(term, operand, index == 0);
            }
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for (index, (term, operand)) in terms.iter().zip(&operands).enumerate() {
                task.add(term, operand, index == 0, scratch);
            }
        });
    });
    // SAFETY: `rows * n` values fit, and the tasks have written every one of them: `add` writes the whole of a task's
    // rectangle with the first term, and the rectangles cover the result.
    #[allow(unsafe_code)]
    unsafe {
        result.set_len(rows * n);
    }
    result
}

/// Rows and columns of the tasks: rows that fit the cache, and columns so that there are enough tasks.
fn grid(isa: Isa, rows: usize, n: usize) -> (usize, usize) {
    let (tile, width) = (isa.tile_rows(), isa.panel_width());
    let tasks = TASKS * rayon::current_num_threads();
    let narrow = 4 * width;
    let down = if n <= narrow { rows.div_ceil(TASK_ROWS).max(tasks) } else { rows.div_ceil(TASK_ROWS) };
    let task_rows = rows.div_ceil(down).next_multiple_of(tile);
    let across = tasks.div_ceil(down).max(1);
    let task_columns = n.div_ceil(across).next_multiple_of(width).max(narrow);
    (task_rows, task_columns)
}

/// Columns of the tasks of a product of a few rows: each thread gets a handful of long stretches of memory.
fn few_columns(isa: Isa, n: usize) -> usize {
    n.div_ceil(FEW_TASKS * rayon::current_num_threads()).next_multiple_of(isa.panel_width())
}

/// The rows of a term as units, rounded to what the product multiplies.
fn operand<'a>(term: &Term<'a>) -> Cow<'a, [u32]> {
    let k = term.b.k();
    match term.b.precision() {
        Precision::F32 => Cow::Borrowed(as_units(term.a)),
        Precision::Int8 if k.is_multiple_of(4) => Cow::Borrowed(as_units(term.a)),
        Precision::Int8 => {
            let stride = operand_stride(term.b);
            let mut padded = vec![0; term.a.len() / k.max(1) * stride];
            for (units, row) in padded.chunks_exact_mut(stride.max(1)).zip(as_units(term.a).chunks(k.max(1)))
            {
                units[..k].copy_from_slice(row);
            }
            Cow::Owned(padded)
        }
        Precision::Bf16 => {
            let stride = operand_stride(term.b);
            let mut rounded = vec![0; term.a.len() / k.max(1) * stride];
            let has_bf16 = term.b.isa().has_bf16();
            rounded.par_chunks_mut(stride.max(1)).zip(term.a.par_chunks(k.max(1))).for_each(
                |(units, row)| {
                    if has_bf16 { pairs_of(row, units) } else { rounded_of(row, units) }
                },
            );
            Cow::Owned(rounded)
        }
    }
}

/// Units in a row of [`operand`].
fn operand_stride(b: &PackedMatrix) -> usize {
    match b.precision() {
        Precision::Bf16 if b.isa().has_bf16() => units(Precision::Bf16, b.k()),
        // Widened panels have a row for each half of a pair, so an odd `k` gets one more, of zeros.
        Precision::Bf16 => b.k().next_multiple_of(2),
        Precision::Int8 => b.k().next_multiple_of(4),
        Precision::F32 => b.k(),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn pairs_of(row: &[f32], units: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    for (unit, [first, second]) in units.iter_mut().zip(pairs) {
        *unit = pair(*first, *second);
    }
    if let (Some(unit), [first]) = (units.last_mut(), rest) {
        *unit = pair(*first, 0.0);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn rounded_of(row: &[f32], units: &mut [u32]) {
    for (unit, value) in units.iter_mut().zip(row) {
        *unit = u32::from(half::bf16::from_f32(*value).to_bits()) << 16;
    }
}

fn as_units(values: &[f32]) -> &[u32] {
    // SAFETY: f32 and u32 have the same size and alignment, and any bits are valid for both.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(values.as_ptr().cast(), values.len())
    }
}

/// The result, to which tasks write side by side.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: tasks write to rectangles that do not overlap; nothing else touches the result while they run.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    fn pointer(&self) -> *mut f32 {
        self.0
    }
}

/// A rectangle of the result.
struct Task<'a> {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    n: usize,
    start: &'a [f32],
    result: *mut f32,
}

impl Task<'_> {
    /// Adds a term to this part of the result; the first begins with `start`.
    fn add(&self, term: &Term<'_>, operand: &[u32], first: bool, scratch: &mut [Aligned; 3]) {
        let [wide, rows_copy, masked] = scratch;
        let (rows, columns) = (self.rows.len(), self.columns.len());
        // SAFETY: the rectangle lies within the result, for which `product` reserved `rows * n` values.
        #[allow(unsafe_code)]
        let to = unsafe { self.result.add(self.rows.start * self.n + self.columns.start) };
        let start = &self.start[self.columns.clone()];
        match term.mask {
            None => self.sum(term, operand, first.then_some(start), to, self.n, wide, rows_copy),
            Some(mask) => {
                masked.reserve(rows * columns + columns);
                let (zeros, sums) = masked.split_at_mut(columns);
                zeros.fill(0);
                let zeros = as_values(zeros);
                let sums_at = sums.as_mut_ptr().cast::<f32>();
                self.sum(term, operand, Some(zeros), sums_at, columns, wide, rows_copy);
                for (row, sums) in self.rows.clone().zip(as_values_mut(sums).chunks_exact_mut(columns)) {
                    mask.apply_part(row, self.columns.start, sums);
                    // SAFETY: row `row` of the rectangle, which this task alone touches, and which an earlier term has
                    // written unless this is the first.
                    #[allow(unsafe_code)]
                    unsafe {
                        let to = to.add((row - self.rows.start) * self.n);
                        for (column, sum) in sums.iter().enumerate() {
                            let before = if first { start[column] } else { *to.add(column) };
                            to.add(column).write(before + sum);
                        }
                    }
                }
            }
        }
    }

    /// As [`add`](Self::add), for a few rows and a term without masks.
    fn add_few(&self, term: &Term<'_>, operand: &[u32], first: bool) {
        let (b, isa) = (term.b, term.b.isa());
        // SAFETY: as in `add`.
        #[allow(unsafe_code)]
        let to = unsafe { self.result.add(self.columns.start) };
        let (from, from_stride) = match first {
            true => (self.start[self.columns.clone()].as_ptr(), 0),
            false => (to.cast_const(), self.n),
        };
        let work = FewRows {
            rows: self.rows.len(),
            columns: self.columns.len(),
            units: units(b.precision(), b.k()),
            depth: DEPTH / b.widening(),
            a: operand.as_ptr(),
            a_stride: operand_stride(b),
            b: b.panels_from(self.columns.start / isa.panel_width()).as_ptr(),
            from,
            from_stride,
            to,
            to_stride: self.n,
        };
        // SAFETY: as in `sum`; the rows are all of the result's.
        #[allow(unsafe_code)]
        unsafe {
            work.run(isa, b.precision());
        }
    }

    /// `to = from + a b`, or `to += a b` without a `from`.
    #[allow(clippy::too_many_arguments)]
    fn sum(
        &self,
        term: &Term<'_>,
        operand: &[u32],
        from: Option<&[f32]>,
        to: *mut f32,
        to_stride: usize,
        wide: &mut Aligned,
        rows_copy: &mut Aligned,
    ) {
        let (b, isa) = (term.b, term.b.isa());
        let (width, stride) = (isa.panel_width(), operand_stride(b));
        let (rows, first_panel) = (self.rows.len(), self.columns.start / width);
        let per_unit = b.widening();
        let all = units(b.precision(), b.k());
        for begin in (0..all.max(1)).step_by(DEPTH / per_unit) {
            let depth = all.min(begin + DEPTH / per_unit) - begin;
            let (mut a, mut a_stride) = (&operand[self.rows.start * stride + begin * per_unit..], stride);
            // Rows a multiple of 4 KiB apart share the few places that the caches have for them.
            let crowded = stride.is_multiple_of(1024) && rows > 8;
            if term.a_mask.is_some() || crowded {
                a_stride = depth * per_unit;
                rows_copy.reserve(rows * a_stride);
                let copies = rows_copy.chunks_exact_mut(a_stride.max(1)).zip(a.chunks(stride.max(1)));
                for (row, (copy, values)) in self.rows.clone().zip(copies) {
                    copy.copy_from_slice(&values[..a_stride]);
                    if let Some(mask) = term.a_mask {
                        mask.apply_part(row, begin, as_values_mut(copy));
                    }
                }
                a = rows_copy;
            }
            let (from, from_stride) = match from {
                Some(row) if begin == 0 => (row.as_ptr(), 0),
                _ => (to.cast_const(), to_stride),
            };
            let block = Block {
                rows,
                columns: self.columns.len(),
                units: depth * per_unit,
                a: a.as_ptr(),
                a_stride,
                b: b.panels_from(first_panel)[begin * width..].as_ptr(),
                panel_stride: b.panel_stride(),
                from,
                from_stride,
                to,
                to_stride,
            };
            if per_unit == 1 {
                // SAFETY: `operand` has `stride` units for each of the rows, `b` has `panel_stride` units for each panel of
                // the columns, `from` is one row of the columns or `to`, and `to` is this task's own; `PackedMatrix` was
                // made for an instruction set that the processor has.
                #[allow(unsafe_code)]
                unsafe {
                    block.run(isa, b.precision());
                }
                continue;
            }
            wide.reserve(per_unit * depth * width);
            for (index, column) in (0..self.columns.len()).step_by(width).enumerate() {
                let panel = &b.panels_from(first_panel + index)[begin * width..][..depth * width];
                match b.precision() {
                    Precision::Int8 => widen_bytes(panel, width, wide),
                    _ => widen(panel, width, wide),
                }
                // SAFETY: as above, for one panel that was widened to `per_unit * depth` rows.
                #[allow(unsafe_code)]
                unsafe {
                    Block {
                        columns: width.min(self.columns.len() - column),
                        b: wide.as_ptr(),
                        from: block.from.add(column),
                        to: block.to.add(column),
                        ..block
                    }
                    .run(isa, Precision::F32);
                }
            }
        }
    }
}

fn as_values(units: &[u32]) -> &[f32] {
    // SAFETY: as in `as_units`.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(units.as_ptr().cast(), units.len())
    }
}

fn as_values_mut(units: &mut [u32]) -> &mut [f32] {
    // SAFETY: as in `as_units`, and borrowed mutably.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(units.as_mut_ptr().cast(), units.len())
    }
}
