use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use crate::kernels::Aligned;

/// Memory for values that live for a part of a step, taken from those that were handed back before.
///
/// Fresh memory costs a training step twice: the system clears its pages when they are first touched, and whoever allocates
/// clears it once more. A buffer that was used before costs nothing, and holds whatever it held: who takes one writes all of
/// it.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Aligned,
    len: usize,
}

/// Buffers that were handed back, by size.
static FREE: Mutex<BTreeMap<usize, Vec<Aligned>>> = Mutex::new(BTreeMap::new());

impl Buffer {
    /// A buffer of `len` values, each of which may be any number.
    pub(crate) fn new(len: usize) -> Self {
        let size = size_class(len);
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&size).and_then(Vec::pop);
        Self { memory: free.unwrap_or_else(|| Aligned::zeros(size)), len }
    }

    /// A buffer of zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::new(len);
        buffer.fill(0.0);
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Aligned::zeros(0));
        FREE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(size_class(self.len))
            .or_default()
            .push(memory);
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
    FREE.lock().unwrap_or_else(PoisonError::into_inner).clear();
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

    #[test]
    fn what_is_handed_back_is_handed_out_again() {
        // A size of its own, as other tests run beside this one.
        let mut buffer = Buffer::new(123_457);
        buffer[123_456] = 7.5;
        let address = buffer.as_ptr();
        drop(buffer);
        let again = Buffer::new(123_450);
        assert_eq!((again.as_ptr(), again.len()), (address, 123_450));
        assert!(Buffer::zeros(123_457).iter().all(|value| *value == 0.0));
    }
}
