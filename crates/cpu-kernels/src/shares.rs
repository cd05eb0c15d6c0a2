use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// A grid of row blocks and their panels, shared among the threads.
///
/// Each thread begins with its own blocks, whose rows stay in its cache, and steals panels from others when it
/// has none left. It takes many panels at first and fewer towards a block's end, so that all threads finish
/// together: with tasks of equal size, the other threads waited 4 % of the time for the last one.
pub(crate) struct Shares {
    panels: usize,
    /// The number of panels taken, for each block.
    taken: Vec<AtomicUsize>,
}

impl Shares {
    /// `blocks` blocks of `panels` panels each, none of them taken.
    pub(crate) fn new(blocks: usize, panels: usize) -> Self {
        Self { panels, taken: (0..blocks).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// Calls `task` with a block and some of its panels until all are done, each once.
    pub(crate) fn work(&self, task: impl Fn(usize, Range<usize>) + Sync) {
        let (blocks, threads) = (self.taken.len(), rayon::current_num_threads());
        (0..threads).into_par_iter().with_max_len(1).for_each(|thread| {
            let own = thread * blocks / threads;
            for block in (own..blocks).chain(0..own) {
                while let Some(panels) = self.take(block, threads) {
                    task(block, panels);
                }
            }
        });
    }

    /// The next panels of a block, if there are any left.
    fn take(&self, block: usize, threads: usize) -> Option<Range<usize>> {
        let end = |first: usize| first + (self.panels - first).div_ceil(2 * threads);
        let next = |first: usize| (first < self.panels).then(|| end(first));
        let first = self.taken[block].fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(first..end(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_is_worked_on_once_by_any_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for (blocks, panels) in [(0, 5), (1, 0), (1, 1), (1, 24), (2, 96), (31, 1), (8, 13)] {
                let done: Vec<AtomicUsize> = (0..blocks * panels).map(|_| AtomicUsize::new(0)).collect();
                pool.install(|| {
                    Shares::new(blocks, panels).work(|block, range| {
                        for panel in range {
                            done[block * panels + panel].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
                assert!(done.iter().all(|times| times.load(Ordering::Relaxed) == 1), "{blocks} x {panels}");
            }
        }
    }
}
