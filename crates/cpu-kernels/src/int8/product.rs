use std::cell::RefCell;
use std::ops::Range;

use super::dequantise::{TileResult, write_results};
use super::sums::{Sums, Tile};
use super::{Engine, Form, PanelForm, QuantisedRows};
use crate::aligned::Aligned;
use crate::shared_pointer::SharedPointer;
use crate::shares::Shares;
use crate::simd::prefetch;
use crate::tile::{Factors, LINE, PREFETCH_INTERVAL, Prefetch};
use crate::words::{interleave, to_unsigned, words};
use crate::{Init, PackedMatrix, Precision, Term};

/// `to = init + a b + term`, for a result with rows of `n` values, `a` quantised by row and `b` an int8 matrix. The term, if given,
/// is a product in f32 as in [`product`](crate::product()), which is added last.
///
/// The bits of `a b` do not depend on the instruction set, the number of threads or the other rows.
///
/// # Panics
/// If shapes do not agree, if `a` was quantised or the term's matrix packed for another instruction set, if the term's matrix is
/// not f32, or as [`product`](crate::product()).
pub fn int8_product(
    to: &mut [f32],
    n: usize,
    init: Init<'_>,
    (a, b): (&QuantisedRows, &PackedMatrix),
    term: Option<Term<'_>>,
) {
    assert!(a.fits(b) && b.n() == n && to.len() == a.count() * n, "shapes of a product");
    if let Some(term) = &term {
        term.check(b.isa(), a.count(), n);
        // AMX would use the tile registers, which are in use for `a b`.
        assert!(term.b.precision() == Precision::F32, "a term of a product in int8 is in f32");
    }
    if to.is_empty() {
        return;
    }
    assert!(!matches!(init, Init::Bias(bias) if bias.len() != n), "bias of a product");
    let (rows, panels) = (a.count(), n.div_ceil(b.isa().panel_width()));
    let height = block_rows(a.engine, rows, b, panels);
    let shared = SharedPointer(to.as_mut_ptr());
    Shares::new(rows.div_ceil(height), panels).work(|block, panels| {
        let rows = block * height..rows.min((block + 1) * height);
        // SAFETY: the rectangle lies within the result and overlaps no other.
        #[allow(unsafe_code)]
        unsafe {
            Task { a, b, n, init, term, result: shared.pointer() }.run(rows, panels);
        }
    });
}

/// The least number of block panels for each thread: with fewer, threads wait longer for the last one to
/// finish.
const PANELS: usize = 12;

/// Rows of a block: as many as fit the second-level cache together with a panel, but fewer if there were not
/// enough panels for all threads otherwise.
fn block_rows(engine: Engine, rows: usize, b: &PackedMatrix, panels: usize) -> usize {
    let blocks = (PANELS * rayon::current_num_threads()).div_ceil(panels);
    let tile_rows = engine.tile_rows(b.isa());
    rows.div_ceil(rows.div_ceil(b.isa().block_rows()).max(blocks)).next_multiple_of(tile_rows)
}

thread_local! {
    /// A panel in the form of its engine.
    static PANEL: RefCell<Aligned> = RefCell::new(Aligned::zeros(0));
}

/// A product whose result is computed in rectangles.
struct Task<'a> {
    a: &'a QuantisedRows,
    b: &'a PackedMatrix,
    n: usize,
    init: Init<'a>,
    term: Option<Term<'a>>,
    result: *mut f32,
}

impl Task<'_> {
    /// Computes some rows of some panels.
    ///
    /// # Safety
    /// The rectangle lies within the result, and no other thread accesses it.
    #[allow(unsafe_code)]
    unsafe fn run(&self, rows: Range<usize>, panels: Range<usize>) {
        let mut sums = Sums([0; 32 * 32]);
        #[cfg(target_arch = "x86_64")]
        if self.a.engine == Engine::Amx {
            // SAFETY: the engine is one that the processor has, and nothing below makes other tiles.
            let tiles = unsafe { crate::amx::Tiles::new() };
            for panel in panels {
                unsafe {
                    self.amx_panel(&tiles, rows.clone(), panel, &mut sums);
                    self.add_term(rows.clone(), panel);
                }
            }
            return;
        }
        PANEL.with_borrow_mut(|copy| {
            for panel in panels {
                unsafe {
                    self.panel(rows.clone(), panel, copy, &mut sums);
                    self.add_term(rows.clone(), panel);
                }
            }
        });
    }

    /// Adds the term to some rows of a panel's results, which are in cache.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[allow(unsafe_code)]
    unsafe fn add_term(&self, rows: Range<usize>, panel: usize) {
        let Some(term) = self.term else { return };
        let width = self.b.isa().panel_width();
        let columns = panel * width..self.n.min((panel + 1) * width);
        // SAFETY: the caller's.
        unsafe {
            crate::task::Task { rows, columns, n: self.n, init: None, result: self.result }.run(&[term]);
        }
    }

    /// A panel for some rows, in tiles of nearly equal height. Each prefetches a part of the next panel.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[allow(unsafe_code)]
    unsafe fn panel(&self, rows: Range<usize>, panel: usize, copy: &mut Aligned, sums: &mut Sums) {
        let (a, b, width) = (self.a, self.b, self.b.isa().panel_width());
        let words = words(Precision::Int8, b.k());
        let count = rows.len().div_ceil(a.engine.tile_rows(b.isa()));
        let lines = (words * width).div_ceil(LINE).div_ceil(count);
        let next = b.panels_from(panel).as_ptr().wrapping_add(b.panel_stride());
        let packed = &b.panels_from(panel)[..words * width];
        let factor = match a.engine.panel_form() {
            PanelForm::Packed => packed.as_ptr(),
            form => {
                copy.reserve(words * width);
                match form {
                    PanelForm::Interleaved => interleave(b.isa(), packed, width, copy),
                    _ => to_unsigned(b.isa(), packed, copy),
                }
                copy.as_ptr()
            }
        };
        let mut first = rows.start;
        for index in 0..count {
            let height = rows.len() / count + usize::from(index < rows.len() % count);
            for row in first..first + height {
                prefetch(self.result.wrapping_add(row * self.n + panel * width).cast_const().cast());
            }
            let tile = Tile {
                rows: a.rows(first..first + height),
                factors: Factors {
                    words,
                    a: a.integers_from(first),
                    a_stride: a.stride(),
                    a_step: 1,
                    b: factor,
                    b_step: width,
                    panel_stride: b.panel_stride(),
                },
                prefetch: Prefetch {
                    from: next.wrapping_add(index * lines * LINE),
                    lines: lines.div_ceil(words.div_ceil(PREFETCH_INTERVAL)),
                },
            };
            // SAFETY: rows and panel have this many words, and the result has the rows.
            unsafe {
                tile.sums(a.engine, sums);
                self.finish(first..first + height, panel, sums);
            }
            first += height;
        }
    }

    /// A panel for some rows by AMX.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    unsafe fn amx_panel(&self, tiles: &crate::amx::Tiles, rows: Range<usize>, panel: usize, sums: &mut Sums) {
        use crate::amx::{Product, SIDE, TILE_ROWS, Tail};

        let (b, words) = (self.b.panels_from(panel), words(Precision::Int8, self.b.k()));
        let tail = Tail::new(&b[..words * SIDE]);
        for first in rows.clone().step_by(SIDE) {
            let height = SIDE.min(rows.end - first);
            let product = Product {
                a: self.a.integers_from(first),
                a_stride: self.a.stride(),
                is_tall: height > TILE_ROWS,
                b: b.as_ptr(),
                words,
                tail: tail.as_ptr(),
                sums: sums.0.as_mut_ptr().cast(),
            };
            // SAFETY: there are integers for a multiple of `SIDE` rows, of which blocks have whole numbers; their stride is a
            // multiple of `TILE_WORDS`.
            unsafe {
                tiles.int8_sums(product);
                self.finish(first..first + height, panel, sums);
            }
        }
    }

    /// Results from the sums of a tile.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[allow(unsafe_code)]
    unsafe fn finish(&self, rows: Range<usize>, panel: usize, sums: &Sums) {
        let (b, width) = (self.b, self.b.isa().panel_width());
        let columns = panel * width..self.n.min((panel + 1) * width);
        let offsets = match self.a.engine.form() {
            Form::Unsigned => &b.offsets[columns.clone()],
            _ => &NO_OFFSETS[..columns.len()],
        };
        let result = TileResult {
            sums: &sums.0,
            width,
            rows: self.a.rows(rows.clone()),
            offsets,
            scales: &b.scales[columns.clone()],
            init: match self.init {
                Init::Bias(bias) => Init::Bias(&bias[columns.clone()]),
                other => other,
            },
            panel: b.panels_from(panel),
            // SAFETY: the tile lies within the rectangle.
            to: unsafe { self.result.add(rows.start * self.n + columns.start) },
            stride: self.n,
        };
        write_results(b.isa(), &result);
    }
}

/// The offsets of a panel of the greatest width.
static NO_OFFSETS: [i32; 32] = [0; 32];
