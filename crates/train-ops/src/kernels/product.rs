use rayon::prelude::*;

use super::few_rows::most_rows;
use super::task::Task;
use super::{Isa, Operand, PackedMatrix, Precision};
use crate::dropout::{Kept, Mask};

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
    pub(crate) kept: Option<&'a Kept>,
}

impl<'a> Term<'a> {
    /// `a b`.
    pub(crate) fn new(a: &'a Operand<'a>, b: &'a PackedMatrix) -> Self {
        Self { a, b, a_mask: None, kept: None }
    }
}

/// Tasks for each thread, so that one that is held up does not keep the others waiting.
const TASKS: usize = 12;
/// The same for a few rows, whose tasks are short.
const FEW_TASKS: usize = 4;

/// `start + Σ kept ∘ ((a_mask ∘ a) b)` over the terms, one or more, to `to`, which has rows of `n`.
pub(crate) fn product(to: &mut [f32], n: usize, start: Start<'_>, terms: &[Term<'_>]) {
    let rows = to.len() / n.max(1);
    assert!(to.len() == rows * n && !terms.is_empty(), "place of a product");
    for term in terms {
        assert!(term.a.rows() == rows && term.b.n() == n && term.a.fits(term.b), "shapes of a product");
        assert!(term.a_mask.is_none() || term.b.precision() == Precision::F32, "a mask of rounded rows");
    }
    if to.is_empty() {
        return;
    }
    let (isa, widening) = (terms[0].b.isa(), terms[0].b.widening());
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
    let (task_rows, task_columns) =
        if few { (rows, few_columns(isa, n)) } else { grid(isa, widening, rows, n) };
    let across = n.div_ceil(task_columns);
    let shared = Shared(to.as_mut_ptr());
    (0..rows.div_ceil(task_rows) * across).into_par_iter().for_each(|task| {
        let (row, column) = (task / across * task_rows, task % across * task_columns);
        let task = Task {
            rows: row..rows.min(row + task_rows),
            columns: column..n.min(column + task_columns),
            n,
            start,
            result: shared.pointer(),
        };
        // SAFETY: the rectangle of the task lies within the result and overlaps no other task's.
        #[allow(unsafe_code)]
        unsafe {
            if few { task.run_few(terms) } else { task.run(terms) }
        }
    });
}

/// Rows and columns of the tasks: rows that fit the cache, more of them for panels that each task widens for itself, and
/// columns so that there are enough tasks.
fn grid(isa: Isa, widening: usize, rows: usize, n: usize) -> (usize, usize) {
    let (tile, width) = (isa.tile_rows(), isa.panel_width());
    let tasks = TASKS * rayon::current_num_threads();
    let narrow = 4 * width;
    let down = rows.div_ceil(isa.task_rows() * if widening > 1 { 2 } else { 1 });
    let down = if n <= narrow { down.max(tasks) } else { down };
    let task_rows = rows.div_ceil(down).next_multiple_of(tile);
    let across = tasks.div_ceil(down).max(1);
    let task_columns = n.div_ceil(across).next_multiple_of(width).max(2 * width);
    (task_rows, task_columns)
}

/// Columns of the tasks of a product of a few rows: each thread gets a handful of long stretches of memory.
fn few_columns(isa: Isa, n: usize) -> usize {
    n.div_ceil(FEW_TASKS * rayon::current_num_threads()).next_multiple_of(isa.panel_width())
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
