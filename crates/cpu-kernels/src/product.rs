use std::ops::Range;

use rayon::prelude::*;

use crate::shared_pointer::SharedPointer;
use crate::shares::Shares;
use crate::skinny::max_rows;
use crate::task::Task;
use crate::{Init, Isa, Term};

/// The least number of block panels for each thread: with fewer, threads wait longer for the last one to
/// finish.
const PANELS: usize = 12;
/// Column ranges for each thread of a skinny product, which is short.
const SKINNY_RANGES: usize = 4;

/// `to = init + Σ product_mask ∘ ((a_mask ∘ a) b)` over one or more terms, for a result with rows of `n` values.
///
/// A product with an int8 matrix uses its integers without the scales: multiply the columns of the result by
/// [`PackedMatrix::scales`](crate::PackedMatrix::scales).
///
/// # Panics
/// If shapes do not agree, if matrices are packed for different instruction sets, or if there is a mask of a product with a
/// matrix that is not f32.
pub fn product(to: &mut [f32], n: usize, init: Init<'_>, terms: &[Term<'_>]) {
    let rows = to.len() / n.max(1);
    assert!(to.len() == rows * n && !terms.is_empty(), "result of a product");
    let isa = terms[0].b.isa();
    for term in terms {
        term.check(isa, rows, n);
    }
    if to.is_empty() {
        return;
    }
    let zeros = match init {
        Init::Zero => vec![0.0; n],
        _ => Vec::new(),
    };
    let init = match init {
        Init::Zero => Some(zeros.as_slice()),
        Init::Bias(bias) => Some(bias),
        Init::Accumulate => None,
    };
    assert!(init.is_none_or(|init| init.len() == n), "bias of a product");
    let may_be_skinny =
        |term: &Term<'_>| !term.b.is_for_tiles() && term.product_mask.is_none() && term.a_mask.is_none();
    let skinny = rows <= max_rows(terms[0].b) && terms.iter().all(may_be_skinny);
    let shared = SharedPointer(to.as_mut_ptr());
    let task =
        |rows: Range<usize>, columns: Range<usize>| Task { rows, columns, n, init, result: shared.pointer() };
    if skinny {
        let width = skinny_columns(isa, n);
        (0..n.div_ceil(width)).into_par_iter().for_each(|range| {
            let columns = range * width..n.min((range + 1) * width);
            // SAFETY: the rectangle lies within the result and overlaps no other.
            #[allow(unsafe_code)]
            unsafe {
                task(0..rows, columns).run_skinny(terms)
            }
        });
        return;
    }
    let tile_rows = terms.iter().map(|term| term.b.tile_rows()).max().unwrap_or(1);
    let (height, width) = (block_rows(isa, rows, n, tile_rows), isa.panel_width());
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

/// Rows of a block of the result: as many as fit the cache, but fewer if there were not enough panels for all
/// threads otherwise.
fn block_rows(isa: Isa, rows: usize, n: usize, tile_rows: usize) -> usize {
    let blocks = (PANELS * rayon::current_num_threads()).div_ceil(n.div_ceil(isa.panel_width()));
    rows.div_ceil(rows.div_ceil(isa.block_rows()).max(blocks)).next_multiple_of(tile_rows)
}

/// Columns of a task of a skinny product: each thread gets a few long ranges.
fn skinny_columns(isa: Isa, n: usize) -> usize {
    n.div_ceil(SKINNY_RANGES * rayon::current_num_threads()).next_multiple_of(isa.panel_width())
}
