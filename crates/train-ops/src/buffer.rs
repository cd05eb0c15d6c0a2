use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use crate::kernels::Aligned;
use crate::memory::ask_for_large_pages;

/// Memory for values that live for a part of a step, taken from those that were handed back before.
///
/// Fresh memory costs a training step twice: the system clears its pages when they are first touched, and whoever allocates
/// clears it once more. A buffer that was used before costs nothing, and holds whatever it held: who takes one writes all of
/// it.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    len: usize,
}

/// Values in pages of their own where they are many, which the system has back when they are let go; in the heap they would
/// leave holes that others seldom fit.
#[derive(Debug)]
enum Memory {
    Heap(Aligned),
    Pages(MmapMut),
}

/// Values from which on there are pages for them.
const MANY: usize = 1 << 16;

impl Memory {
    fn new(len: usize) -> Self {
        let pages = (len >= MANY).then(|| MmapMut::map_anon(len * size_of::<f32>()).ok()).flatten();
        let Some(pages) = pages else { return Self::Heap(Aligned::zeros(len)) };
        ask_for_large_pages(&pages);
        Self::Pages(pages)
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::Heap(memory) => memory.values(),
            // SAFETY: pages are aligned to more than an f32, of which they hold a whole number, and any bits are one.
            #[allow(unsafe_code)]
            Self::Pages(pages) => unsafe {
                std::slice::from_raw_parts(pages.as_ptr().cast(), pages.len() / size_of::<f32>())
            },
        }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Heap(memory) => memory.values_mut(),
            // SAFETY: as in `values`, and borrowed mutably.
            #[allow(unsafe_code)]
            Self::Pages(pages) => unsafe {
                std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), pages.len() / size_of::<f32>())
            },
        }
    }
}

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Memory that was handed back.
///
/// Sizes change from batch to batch, with the longest caption, and altogether between training and evaluation. So memory
/// also serves who asks for a little less, and where none fits, what was not used for the longest time is let go before
/// there is more: buffers take no more than what was ever in use at one time, but for what sizes are rounded by and for
/// [`IDLE`].
struct Pool {
    /// By size, in the order in which it was handed back, with the time of that.
    free: BTreeMap<usize, VecDeque<(u64, Memory)>>,
    /// Values in all of it.
    len: usize,
    /// Counts what was handed back.
    clock: u64,
}

/// Memory serves who asks for up to this share of it less: 1 / `SLACK`.
const SLACK: usize = 4;

/// Values that are kept whether they are of use or not, 32 MB: one pass uses some sizes early and others late, and would
/// let go of the ones for the others.
const IDLE: usize = 8 << 20;

impl Pool {
    const fn new() -> Self {
        Self { free: BTreeMap::new(), len: 0, clock: 0 }
    }

    /// Memory for `size` values; `None` where there has to be more of it, for which there is room then.
    fn take(&mut self, size: usize) -> Option<Memory> {
        let fitting = self.free.range(size..=size + size / SLACK).next().map(|(size, _)| *size);
        if let Some(size) = fitting {
            return self.remove(size, VecDeque::pop_back);
        }
        let enough = self.len.saturating_sub(size).max(IDLE);
        while self.len > enough {
            let oldest = self.free.iter().filter_map(|(size, free)| Some((free.front()?.0, *size))).min();
            let Some((_, oldest)) = oldest else { break };
            drop(self.remove(oldest, VecDeque::pop_front));
        }
        None
    }

    /// One piece of free memory of this size.
    fn remove(
        &mut self,
        size: usize,
        pop: impl FnOnce(&mut VecDeque<(u64, Memory)>) -> Option<(u64, Memory)>,
    ) -> Option<Memory> {
        let free = self.free.get_mut(&size)?;
        let (_, memory) = pop(free)?;
        if free.is_empty() {
            self.free.remove(&size);
        }
        self.len -= size;
        Some(memory)
    }

    fn put(&mut self, memory: Memory) {
        self.clock += 1;
        self.len += memory.values().len();
        self.free.entry(memory.values().len()).or_default().push_back((self.clock, memory));
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffer {
    /// A buffer of `len` values, each of which may be any number.
    pub(crate) fn new(len: usize) -> Self {
        let size = size_class(len);
        let free = pool().take(size);
        Self { memory: free.unwrap_or_else(|| Memory::new(size)), len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::new(0));
        pool().put(memory);
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory.values()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory.values_mut()[..self.len]
    }
}

/// Gives the memory of buffers that nobody uses back to the allocator.
pub(crate) fn release_buffers() {
    *pool() = Pool::new();
}

/// The next of a few sizes to each power of two, so that buffers of nearly the same size serve one another.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 16).max(16);
    len.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_sizes_and_wastes_an_eighth_at_most() {
        for len in (0..5000).chain([1 << 20, (1 << 20) + 1, 426 * 768, 430 * 3072]) {
            let size = size_class(len);
            assert!(size >= len && size - len < (len / 8).max(16), "{len}: {size}");
            assert_eq!(size_class(size), size);
        }
    }

    /// Takes memory for `lens` at once, hands it back, and returns how much there is after that.
    fn pass(pool: &mut Pool, lens: &[usize]) -> usize {
        let taken: Vec<Memory> = lens
            .iter()
            .map(|len| {
                let size = size_class(*len);
                let memory = pool.take(size).unwrap_or_else(|| Memory::new(size));
                assert!(memory.values().len() >= *len);
                memory
            })
            .collect();
        taken.into_iter().for_each(|memory| pool.put(memory));
        assert_eq!(pool.len, pool.free.iter().map(|(size, free)| size * free.len()).sum::<usize>());
        pool.len
    }

    #[test]
    fn what_is_handed_back_is_handed_out_again() {
        let mut pool = Pool::new();
        let memory = Memory::new(size_class(123_457));
        let address = memory.values().as_ptr();
        pool.put(memory);
        assert!(pool.take(100).is_none() && pool.take(200_000).is_none());
        let again = pool.take(size_class(100_000)).unwrap();
        assert!(again.values().as_ptr() == address && pool.len == 0 && pool.take(100_000).is_none());
    }

    #[test]
    fn many_sizes_take_no_more_than_the_largest_of_their_passes() {
        let sizes = |rows: usize| [vec![rows * 768; 20], vec![rows * 3072; 10]].concat();
        let mut pool = Pool::new();
        let largest = pass(&mut Pool::new(), &sizes(460));
        for rows in [410, 430, 415, 460, 422, 444] {
            let kept = pass(&mut pool, &sizes(rows));
            assert!(kept <= largest + IDLE, "{rows}: {kept}");
        }
        // All of them fit by now.
        let kept = pool.len;
        assert_eq!([418, 460, 427].map(|rows| pass(&mut pool, &sizes(rows))), [kept; 3]);
        // An evaluation of other sizes, and training again.
        let evaluation = vec![8 * 440 * 768; 7];
        assert!(pass(&mut pool, &evaluation) <= largest + IDLE);
        assert!(pass(&mut pool, &sizes(440)) <= largest + IDLE);
    }

    /// A pass that needs some sizes early and others late, never all at once, would otherwise let go of the ones for the others.
    #[test]
    fn a_pass_that_comes_again_takes_nothing_new() {
        let mut pool = Pool::new();
        let (early, late) = (vec![1 << 20; 6], vec![1 << 21; 4]);
        pass(&mut pool, &early);
        let kept = pass(&mut pool, &late);
        for _ in 0..3 {
            for sizes in [&early, &late] {
                assert!(pool.free[&sizes[0]].len() >= sizes.len());
                assert_eq!(pass(&mut pool, sizes), kept);
            }
        }
    }
}
