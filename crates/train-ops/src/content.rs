//! Hashes and checks of all bytes of a file or all numbers of a tensor. They are in this crate and not in the application, because
//! this workspace compiles the application without optimisation.

use candle_core::{CpuStorage, Result, Storage, Tensor};
use twox_hash::XxHash3_128;

/// Values that are checked at a time.
const CHUNK: usize = 1 << 12;

/// A hash of bytes that come in parts, by XXH3 with 128 bits. Files and datasets are compared by it; it is no protection against
/// a forgery.
///
/// ```
/// use train_ops::ContentHash;
///
/// let (mut whole, mut parts) = (ContentHash::default(), ContentHash::default());
/// whole.write(b"weights");
/// parts.write(b"wei");
/// parts.write(b"ghts");
/// assert_eq!(whole.finish(), parts.finish());
/// ```
#[derive(Clone, Default)]
pub struct ContentHash(XxHash3_128);

impl ContentHash {
    /// Adds the next bytes.
    #[inline(never)]
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The hash of all bytes so far.
    #[inline(never)]
    pub fn finish(&self) -> u128 {
        self.0.finish_128()
    }

    /// The hash of the numbers of a tensor in f32 on the CPU, each as four bytes with the lowest first.
    ///
    /// # Errors
    /// If the tensor is of another type or on another device.
    pub fn of_tensor(tensor: &Tensor) -> Result<u128> {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("only weights on the CPU have a hash")
        };
        let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..tensor.elem_count()];
        let mut hash = Self::default();
        // Block by block: copying all of it would take longer than the hash.
        let mut bytes = [0; 4096];
        for block in values.chunks(bytes.len() / 4) {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(block) {
                *bytes = value.to_le_bytes();
            }
            hash.write(&bytes[..4 * block.len()]);
        }
        Ok(hash.finish())
    }
}

/// Whether no number of a tensor on the CPU is NaN or infinite. Whole numbers are finite. All numbers of the tensor's storage are
/// checked, also those outside a view.
pub fn is_finite(tensor: &Tensor) -> bool {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::F64(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::F16(values)) => all(values, |value| value.is_finite()),
        Storage::Cpu(CpuStorage::BF16(values)) => all(values, |value| value.is_finite()),
        _ => true,
    }
}

/// Whether all values pass, without a branch for each of them.
fn all<T>(values: &[T], passes: impl Fn(&T) -> bool) -> bool {
    values.chunks(CHUNK).all(|chunk| chunk.iter().fold(true, |all, value| all & passes(value)))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn one_value_that_is_not_finite_is_found_in_every_type() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for (value, finite) in [(1.0, true), (f32::NAN, false), (f32::INFINITY, false)] {
                let mut values = vec![0f32; 2 * CHUNK + 1];
                values[2 * CHUNK] = value;
                let tensor = Tensor::from_vec(values, 2 * CHUNK + 1, &Device::Cpu).unwrap();
                let tensor = tensor.to_dtype(dtype).unwrap();
                assert_eq!(is_finite(&tensor), finite, "{value} in {dtype:?}");
            }
        }
        assert!(is_finite(&Tensor::new(&[3i64], &Device::Cpu).unwrap()));
    }

    #[test]
    fn the_hash_of_a_tensor_is_that_of_its_bytes() {
        let values: Vec<f32> = (0..3000).map(|index| index as f32 * 0.37 - 5.0).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Tensor::from_vec(values, (30, 100), &Device::Cpu).unwrap();
        assert_eq!(ContentHash::of_tensor(&tensor).unwrap(), XxHash3_128::oneshot(&bytes));
        let row = ContentHash::of_tensor(&tensor.get(7).unwrap()).unwrap();
        assert_eq!(row, XxHash3_128::oneshot(&bytes[2800..3200]));
        assert!(ContentHash::of_tensor(&tensor.to_dtype(DType::F64).unwrap()).is_err());
    }
}
