use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

use crate::aligned::Aligned;
use crate::large_pages::ask_for_large_pages;

/// f32 values for a part of a training step, in pooled memory that is reused.
///
/// New memory is cleared twice: the system clears its pages when they are touched for the first time, and the
/// allocating code clears it again. A pooled buffer is not cleared. Its contents are stale: overwrite every
/// element.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    len: usize,
}

/// Large buffers have their own pages, which are returned to the system when they are dropped. In the heap they
/// would leave holes that seldom fit another allocation.
#[derive(Debug)]
enum Memory {
    Heap(Aligned),
    Pages(MmapMut),
}

/// The smallest number of values for which pages are mapped.
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

/// Memory of dropped buffers.
///
/// Sizes change from batch to batch, with the longest caption, and between training and evaluation. So a piece
/// of memory is also used for slightly smaller requests. If no piece fits, the pieces that were unused for the
/// longest time are freed before more memory is allocated. Apart from the rounding of sizes and [`IDLE`], the
/// pool never takes more memory than was in use at one time.
struct Pool {
    /// By size, each with the time of its return, oldest first.
    free: BTreeMap<usize, VecDeque<(u64, Memory)>>,
    /// Total number of values in free pieces.
    len: usize,
    /// Number of pieces returned so far.
    clock: u64,
}

/// A piece is also used for smaller requests, down to its size divided by `1 + 1 / SLACK`.
const SLACK: usize = 4;

/// Number of values that are always kept, 32 MB. A pass uses some sizes early and others late; without this, it
/// would free the ones to allocate the others.
const IDLE: usize = 8 << 20;

impl Pool {
    const fn new() -> Self {
        Self { free: BTreeMap::new(), len: 0, clock: 0 }
    }

    /// Memory for `size` values. `None` if it must be allocated; old pieces are then freed to make room.
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

    /// Removes one piece of this size.
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
    /// A buffer of `len` values, all of them stale.
    pub fn new(len: usize) -> Self {
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

/// Frees all pooled memory that is not in use.
pub(crate) fn release_buffers() {
    *pool() = Pool::new();
}

/// `len`, rounded up to one of a few sizes for each power of two, so that buffers of nearly the same size can
/// reuse each other's memory.
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

    /// Takes memory for all of `lens`, returns it to the pool, and returns how much the pool has then.
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
    fn returned_memory_is_used_again() {
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
        // By now there is memory for all of them.
        let kept = pool.len;
        assert_eq!([418, 460, 427].map(|rows| pass(&mut pool, &sizes(rows))), [kept; 3]);
        // An evaluation of other sizes, and training again.
        let evaluation = vec![8 * 440 * 768; 7];
        assert!(pass(&mut pool, &evaluation) <= largest + IDLE);
        assert!(pass(&mut pool, &sizes(440)) <= largest + IDLE);
    }

    /// A pass that needs some sizes early and others late, never all at once.
    #[test]
    fn a_repeated_pass_allocates_nothing() {
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
