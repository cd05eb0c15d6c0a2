use crate::launch::{Arguments, size};
use crate::{Error, Launch, Pointer, Result};

/// Copies tensors of any types and sizes to other places, 16 of them in a launch.
#[derive(Clone, Copy, Debug)]
pub struct TensorCopy {
    /// `bytes` bytes, at a multiple of 16.
    pub from: Pointer,
    /// Room for as many, at a multiple of 16.
    pub to: Pointer,
    /// Size of the tensor.
    pub bytes: usize,
}

const THREADS: u32 = 256;
/// Tensors of a launch, whose places are its argument.
const MOST_TENSORS: usize = 16;
/// Bytes that a block copies.
const PIECE: usize = 16 * 1024;

impl TensorCopy {
    /// The kernel, once for every 16 tensors.
    ///
    /// # Errors
    /// If a tensor is not aligned, or has 2³¹ pieces of 16 KiB or more.
    pub fn launches(tensors: &[Self]) -> Result<Vec<Launch>> {
        tensors.chunks(MOST_TENSORS).map(Self::launch).collect()
    }

    fn launch(tensors: &[Self]) -> Result<Launch> {
        let kernel = "tensor_copy";
        let places = tensors.iter().flat_map(|tensor| [tensor.from, tensor.to]);
        if let Some(pointer) = places.into_iter().find(|pointer| pointer.0 % 16 != 0) {
            return Err(Error::Mismatch {
                kernel,
                expected: "addresses that are multiples of 16".to_owned(),
                got: format!("{:#x}", pointer.0),
            });
        }
        let words = |of: fn(&Self) -> Pointer| {
            let mut words: Vec<Pointer> = tensors.iter().map(of).collect();
            words.resize(MOST_TENSORS, Pointer::NULL);
            words
        };
        let arguments = Arguments::default()
            .pointers(&words(|tensor| tensor.from))
            .pointers(&words(|tensor| tensor.to))
            .pointers(&words(|tensor| Pointer(tensor.bytes as u64)));
        let largest = tensors.iter().map(|tensor| tensor.bytes).max().unwrap_or(0);
        let grid = [size(kernel, "pieces of a tensor", largest.div_ceil(PIECE))?, tensors.len() as u32, 1];
        Ok(Launch::new("tensor_copy", "tensor_copy", grid, THREADS, arguments))
    }
}
