use std::ops::{Deref, DerefMut};

use crate::large_pages::ask_for_large_pages;

/// Words of four bytes that begin on a cache line, so that no aligned vector crosses one.
///
/// A word is an f32, two bf16 or four int8 that follow each other in `k`.
#[derive(Clone, Debug)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

const LINE: usize = 16;

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        let lines = vec![Line([0; LINE]); len.div_ceil(LINE)];
        ask_for_large_pages(&lines);
        Self { lines, len }
    }

    /// Makes room for at least `len` words of scratch memory, whose contents are stale.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeros(len);
        }
    }

    /// The words as f32.
    pub(crate) fn values(&self) -> &[f32] {
        // SAFETY: f32 and u32 have the same size and alignment, and any bits are valid for both.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.as_ptr().cast(), self.len)
        }
    }

    /// The words as f32.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `values`, and borrowed mutably.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), self.len)
        }
    }
}

impl Deref for Aligned {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: `lines` are `lines.len() * LINE >= len` initialised u32 without padding, aligned to more than a u32.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len)
        }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `deref`, and borrowed mutably.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len)
        }
    }
}
