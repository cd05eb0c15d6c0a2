//! The description of a launch: function, grid, block, shared memory and argument.

use crate::{Error, Mask, Result};

/// An address in the memory of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointer(pub u64);

impl Pointer {
    /// No memory, where an argument is optional.
    pub const NULL: Self = Self(0);

    /// Whether this is no memory.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
}

/// The type of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Elements of 16 bytes.
    pub(crate) const fn vector(self) -> usize {
        16 / self.size()
    }

    /// Whether rows of `columns` elements that begin at these pointers can be read 16 bytes at a time.
    pub(crate) fn aligned(self, columns: usize, pointers: &[Pointer]) -> bool {
        columns.is_multiple_of(self.vector()) && pointers.iter().all(|pointer| pointer.0.is_multiple_of(16))
    }
}

/// A kernel with its arguments and the number of its threads.
///
/// Running it is as unsafe as any call with raw pointers: the memory must be as large as the documentation of the struct that
/// made the launch says, on the device of the stream, and not used by others at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The source file of the kernel, without `.cu`.
    pub module: &'static str,
    /// The kernel's name in it.
    pub function: &'static str,
    /// Blocks of the grid. Where one of them is 0 there is nothing to do, and the kernel must not be launched.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory. Above 48 KiB the function needs its attribute `MAX_DYNAMIC_SHARED_SIZE_BYTES` raised first.
    pub shared_bytes: u32,
    arguments: Vec<u64>,
}

impl Launch {
    pub(crate) fn new(
        module: &'static str,
        function: &'static str,
        grid: [u32; 3],
        threads: u32,
        arguments: Arguments,
    ) -> Self {
        Self { module, function, grid, threads, shared_bytes: 0, arguments: arguments.finish() }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }

    /// The kernel's only argument, a struct passed by value, as words of its memory.
    pub fn arguments(&self) -> &[u64] {
        &self.arguments
    }
}

/// The memory of a C struct, built field by field with C's alignment.
#[derive(Default)]
pub(crate) struct Arguments {
    bytes: Vec<u8>,
}

impl Arguments {
    fn field(mut self, bytes: &[u8]) -> Self {
        self = self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn align(mut self, size: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(size), 0);
        self
    }

    pub(crate) fn pointer(self, pointer: Pointer) -> Self {
        self.field(&pointer.0.to_ne_bytes())
    }

    pub(crate) fn pointers(self, pointers: &[Pointer]) -> Self {
        pointers.iter().fold(self, |arguments, pointer| arguments.pointer(*pointer))
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.field(&value.to_ne_bytes())
    }

    pub(crate) fn u32s(self, values: &[u32]) -> Self {
        values.iter().fold(self, |arguments, value| arguments.u32(*value))
    }

    pub(crate) fn f32(self, value: f32) -> Self {
        self.field(&value.to_ne_bytes())
    }

    pub(crate) fn f64(self, value: f64) -> Self {
        self.field(&value.to_ne_bytes())
    }

    /// A struct that begins with a pointer.
    pub(crate) fn mask(self, mask: &Mask) -> Self {
        self.pointer(mask.keys)
            .u32s(&[mask.rows_per_sample, mask.threshold()])
            .f32(mask.scale())
            .align(size_of::<u64>())
    }

    /// The end of a struct within the argument.
    pub(crate) fn end_of_struct(self) -> Self {
        self.align(size_of::<u64>())
    }

    fn finish(self) -> Vec<u64> {
        let aligned = self.align(size_of::<u64>());
        aligned
            .bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(std::array::from_fn(|i| word[i])))
            .collect()
    }
}

/// `value` as the kernels count, below 2³¹.
pub(crate) fn size(kernel: &'static str, what: &'static str, value: usize) -> Result<u32> {
    at_most(kernel, what, value, i32::MAX as usize)
}

pub(crate) fn at_most(kernel: &'static str, what: &'static str, got: usize, most: usize) -> Result<u32> {
    if got > most {
        return Err(Error::Size { kernel, what, most, got });
    }
    Ok(got as u32)
}

/// The largest second or third dimension of a grid.
pub(crate) const GRID: usize = 65_535;

/// The names of a kernel for both types, with 16 bytes at a time and with one element.
macro_rules! element_kernels {
    ($name:literal) => {
        [
            [concat!($name, "_f32"), concat!($name, "_f32_scalar")],
            [concat!($name, "_bf16"), concat!($name, "_bf16_scalar")],
        ]
    };
}

/// The names of a kernel for both types and two sizes, the smaller first.
macro_rules! sized_kernels {
    ($name:literal, $small:literal, $large:literal) => {
        [
            [concat!($name, "_f32_", $small), concat!($name, "_f32_", $large)],
            [concat!($name, "_bf16_", $small), concat!($name, "_bf16_", $large)],
        ]
    };
}

pub(crate) use {element_kernels, sized_kernels};

/// The name for this type; `second` chooses between the two of it.
pub(crate) fn pick(names: [[&'static str; 2]; 2], element: Element, second: bool) -> &'static str {
    names[usize::from(element == Element::Bf16)][usize::from(second)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_a_c_compiler_puts_them() {
        let mask = Mask { keys: Pointer(7), rows_per_sample: 5, p: 0.5 };
        let words = Arguments::default().u32(1).pointer(Pointer(2)).u32(3).mask(&mask).u32(4).finish();
        let scale = u64::from(2f32.to_bits());
        assert_eq!(words, [1, 2, 3, 7, 5 | 1 << 63, scale, 4]);
    }

    #[test]
    fn rows_are_read_in_vectors_only_if_all_of_them_are_aligned() {
        assert!(Element::F32.aligned(12, &[Pointer(32), Pointer::NULL]));
        assert!(!Element::F32.aligned(6, &[Pointer(32)]));
        assert!(!Element::Bf16.aligned(12, &[Pointer(32)]));
        assert!(!Element::Bf16.aligned(16, &[Pointer(32), Pointer(40)]));
    }
}
