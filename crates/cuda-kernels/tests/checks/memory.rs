//! Memory as a device has it: aligned, with margins that nothing may touch, and NaN where nothing was written.

use cuda_kernels::{Element, Pointer};
use half::bf16;

/// Bytes before and after the values: more than a faulty kernel of the tests writes beyond its memory.
const MARGIN: usize = 8192;

/// Values of one type, as bytes between two margins.
pub(crate) struct Memory {
    words: Vec<u128>,
    bytes: usize,
    /// Bytes from a multiple of 16 to the first value.
    offset: usize,
}

impl Memory {
    fn empty(bytes: usize, offset: usize) -> Self {
        Self { words: vec![u128::MAX; (2 * MARGIN + offset + bytes).div_ceil(16)], bytes, offset }
    }

    /// Memory that was not written. A number read from it is NaN or a number that is far too large.
    pub(crate) fn unwritten(bytes: usize) -> Self {
        Self::empty(bytes, 0)
    }

    pub(crate) fn unwritten_elements(element: Element, count: usize) -> Self {
        Self::empty(element.size() * count, 0)
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Self::of_bytes_at(bytes, 0)
    }

    fn of_bytes_at(bytes: &[u8], offset: usize) -> Self {
        let mut memory = Self::empty(bytes.len(), offset);
        let start = memory.start();
        for (at, byte) in (start..).zip(bytes) {
            let shift = at % 16 * 8;
            let word = &mut memory.words[at / 16];
            *word = *word & !(0xff << shift) | u128::from(*byte) << shift;
        }
        memory
    }

    /// Activations; those in bf16 are rounded.
    pub(crate) fn of(element: Element, values: &[f32]) -> Self {
        Self::of_bytes(&bytes_of(element, values))
    }

    /// As [`of`](Self::of), one element after a multiple of 16 bytes, as a part of a larger tensor can lie.
    pub(crate) fn unaligned(element: Element, values: &[f32]) -> Self {
        Self::of_bytes_at(&bytes_of(element, values), element.size())
    }

    pub(crate) fn of_u32(values: &[u32]) -> Self {
        Self::of_bytes(&values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>())
    }

    pub(crate) fn of_u64(values: &[u64]) -> Self {
        Self::of_bytes(&values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>())
    }

    fn start(&self) -> usize {
        MARGIN + self.offset
    }

    pub(crate) fn pointer(&self) -> Pointer {
        Pointer(self.words.as_ptr() as u64 + self.start() as u64)
    }

    fn byte(&self, at: usize) -> u8 {
        (self.words[at / 16] >> (at % 16 * 8)) as u8
    }

    /// The bytes, if the margins are as they were.
    fn bytes(&self) -> Result<Vec<u8>, String> {
        let (start, end) = (self.start(), self.start() + self.bytes);
        let margins = (0..start).chain(end..16 * self.words.len());
        for at in margins {
            if self.byte(at) != 0xff {
                return Err(format!("byte {} of {} was written", at as i64 - start as i64, self.bytes));
            }
        }
        Ok((start..end).map(|at| self.byte(at)).collect())
    }

    fn values_of<const N: usize, T>(&self, from: impl Fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        let bytes = self.bytes()?;
        Ok(bytes.chunks_exact(N).map(|chunk| from(std::array::from_fn(|i| chunk[i]))).collect())
    }

    pub(crate) fn values(&self, element: Element) -> Result<Vec<f32>, String> {
        match element {
            Element::F32 => self.values_of(f32::from_ne_bytes),
            Element::Bf16 => self.values_of(|bytes| bf16::from_ne_bytes(bytes).to_f32()),
        }
    }

    pub(crate) fn f32s(&self) -> Result<Vec<f32>, String> {
        self.values(Element::F32)
    }

    pub(crate) fn f64s(&self) -> Result<Vec<f64>, String> {
        self.values_of(f64::from_ne_bytes)
    }

    pub(crate) fn u32s(&self) -> Result<Vec<u32>, String> {
        self.values_of(u32::from_ne_bytes)
    }
}

fn bytes_of(element: Element, values: &[f32]) -> Vec<u8> {
    match element {
        Element::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Element::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_ne_bytes()).collect(),
    }
}
