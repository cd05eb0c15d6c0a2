use std::ops::Range;

use rayon::prelude::*;

use super::few_rows::most_rows;
use super::shares::Shares;
use super::task::Task;
use super::{Isa, Operand, PackedMatrix, Precision};
use crate::dropout::{KeptBits, Mask};

/// What the sums of a product begin with.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Zero.
    Zero,
    /// One row, a bias, for every row of the result.
    Bias(&'a [f32]),
    /// What is in the place of the result.
    Kept,
}

/// One of the products that are summed, `a b` for rows `a`, with dropout masks where they are wanted.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    /// `(rows, k)`.
    pub(crate) a: &'a Operand<'a>,
    /// `(k, n)`.
    pub(crate) b: &'a PackedMatrix,
    /// A mask of `a`; for a `b` in f32.
    pub(crate) a_mask: Option<&'a Mask>,
    /// The elements of `a b` that count.
    pub(crate) kept: Option<&'a KeptBits>,
}

impl<'a> Term<'a> {
    /// `a b`.
    pub(crate) fn new(a: &'a Operand<'a>, b: &'a PackedMatrix) -> Self {
        Self { a, b, a_mask: None, kept: None }
    }
}

/// Panels of blocks for each thread, or more: the fewer there are, the longer the others wait for the last.
const PANELS: usize = 12;
/// Stretches for each thread of a product of a few rows, which are short.
const FEW_STRETCHES: usize = 4;

/// `start + Σ kept ∘ ((a_mask ∘ a) b)` over the terms, one or more, to `to`, which has rows of `n`.
pub(crate) fn product(to: &mut [f32], n: usize, start: Start<'_>, terms: &[Term<'_>]) {
    let rows = to.len() / n.max(1);
    assert!(to.len() == rows * n && !terms.is_empty(), "place of a product");
    for term in terms {
        assert!(term.a.rows() == rows && term.b.n() == n && term.a.fits(term.b), "shapes of a product");
        let masked = term.a_mask.is_some() || term.kept.is_some();
        assert!(!masked || term.b.precision() == Precision::F32, "a mask of rounded values");
        assert!(term.kept.is_none_or(|kept| kept.covers(rows, n)), "mask of a product");
    }
    if to.is_empty() {
        return;
    }
    let isa = terms[0].b.isa();
    let zeros = match start {
        Start::Zero => vec![0.0; n],
        _ => Vec::new(),
    };
    let start = match start {
        Start::Zero => Some(zeros.as_slice()),
        Start::Bias(bias) => Some(bias),
        Start::Kept => None,
    };
    assert!(start.is_none_or(|start| start.len() == n), "bias of a product");
    let few = rows <= most_rows(terms[0].b)
        && terms.iter().all(|term| term.kept.is_none() && term.a_mask.is_none());
    let shared = Shared(to.as_mut_ptr());
    let task = |rows: Range<usize>, columns: Range<usize>| Task {
        rows,
        columns,
        n,
        start,
        result: shared.pointer(),
    };
    if few {
        let width = few_columns(isa, n);
        (0..n.div_ceil(width)).into_par_iter().for_each(|stretch| {
            let columns = stretch * width..n.min((stretch + 1) * width);
            // SAFETY: the rectangle lies within the result and overlaps no other.
            #[allow(unsafe_code)]
            unsafe {
                task(0..rows, columns).run_few(terms)
            }
        });
        return;
    }
    let (height, width) = (block_rows(isa, rows, n), isa.panel_width());
    Shares::new(rows.div_ceil(height), n.div_ceil(width)).work(|block, panels| {
        let rows = block * height..rows.min((block + 1) * height);
        let columns = panels.start * width..n.min(panels.end * width);
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            task(rows, columns).run(terms)
        }
    });
}

/// Rows of a block of the result: as many as fit the cache, and fewer where there would not be enough panels for all
/// threads.
fn block_rows(isa: Isa, rows: usize, n: usize) -> usize {
    let enough = (PANELS * rayon::current_num_threads()).div_ceil(n.div_ceil(isa.panel_width()));
    rows.div_ceil(rows.div_ceil(isa.task_rows()).max(enough)).next_multiple_of(isa.tile_rows())
}

/// Columns of a stretch in a product of a few rows: each thread gets a handful of long ones.
fn few_columns(isa: Isa, n: usize) -> usize {
    n.div_ceil(FEW_STRETCHES * rayon::current_num_threads()).next_multiple_of(isa.panel_width())
}

/// A result that tasks write to side by side.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) *mut f32);

// SAFETY: tasks write to parts that do not overlap; nothing else touches the result while they run.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn pointer(&self) -> *mut f32 {
        self.0
    }
}
