//! The storages of a file, and the views that select a tensor's elements from them.

use candle_core::DType;

use crate::error::Fault;

/// PyTorch's storage types: their names without `Storage`, the size of an element in bytes, and candle's type
/// if it has one.
const TYPES: [(&str, usize, Option<DType>); 12] = [
    ("Float", 4, Some(DType::F32)),
    ("Double", 8, Some(DType::F64)),
    ("Half", 2, Some(DType::F16)),
    ("BFloat16", 2, Some(DType::BF16)),
    ("Byte", 1, Some(DType::U8)),
    ("Bool", 1, Some(DType::U8)),
    ("Short", 2, Some(DType::I16)),
    ("Int", 4, Some(DType::I32)),
    ("Long", 8, Some(DType::I64)),
    ("Char", 1, None),
    ("ComplexFloat", 8, None),
    ("ComplexDouble", 16, None),
];

/// A storage: an array of numbers of one type. Tensors are views of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    /// Its name in the file.
    pub(crate) key: String,
    /// Size of an element in bytes.
    pub(crate) size: usize,
    /// `None` if candle has no such type.
    pub(crate) dtype: Option<DType>,
    /// The number of elements.
    pub(crate) elements: usize,
    /// PyTorch's name of the type.
    pub(crate) kind: String,
}

impl Storage {
    /// A storage of the type that PyTorch calls `kind`, such as `FloatStorage`.
    pub(crate) fn new(key: &str, kind: &str, elements: usize) -> Result<Self, Fault> {
        let known = kind.strip_suffix("Storage");
        let known = TYPES.iter().find(|(name, ..)| Some(*name) == known);
        let Some((_, size, dtype)) = known else {
            return Err(Fault::Unsupported(format!("it holds numbers of the type torch.{kind}")));
        };
        if elements.checked_mul(*size).is_none_or(|bytes| i64::try_from(bytes).is_err()) {
            return Err(Fault::Damaged(format!("a storage in it is said to have {elements} elements")));
        }
        Ok(Self { key: key.to_owned(), size: *size, dtype: *dtype, elements, kind: kind.to_owned() })
    }

    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.elements * self.size) as u64
    }
}

/// A view: the elements of a storage that belong to a tensor.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The storage's name in the file.
    pub(crate) storage: String,
    pub(crate) dtype: DType,
    /// The index of the first element.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// The distance in elements from one index to the next, for each dimension.
    pub(crate) strides: Vec<usize>,
}

impl View {
    /// Checks that all elements are in the storage, and that a contiguous copy fits into memory.
    pub(crate) fn check(&self, storage: &Storage) -> Result<(), String> {
        let wrong =
            || format!("shape {:?} with strides {:?} is not in its storage", self.shape, self.strides);
        if self.shape.len() != self.strides.len() {
            return Err(wrong());
        }
        let count = self.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length));
        let Some(count) = count else { return Err(wrong()) };
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, |last, (length, stride)| {
            last.checked_add(length.saturating_sub(1).checked_mul(*stride)?)
        });
        // A view may repeat elements (stride 0) and so be larger than its storage, but weights never do.
        let fits = last.is_some_and(|last| last < storage.elements) && count <= storage.elements;
        if count == 0 || fits { Ok(()) } else { Err(wrong()) }
    }

    /// The number of elements.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The number of elements of the storage from the view's first to its last.
    pub(crate) fn span(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        self.shape.iter().zip(&self.strides).map(|(length, stride)| (length - 1) * stride).sum::<usize>() + 1
    }

    /// Whether its elements are contiguous, in the order of its shape.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        self.shape.iter().zip(&self.strides).rev().all(|(length, stride)| {
            let follows = *length == 1 || *stride == expected;
            expected = usize::wrapping_mul(expected, *length); // of an empty tensor it may be any number
            follows
        }) || self.elements() == 0
    }

    /// The positions of its elements relative to the first, in the order of its shape.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> {
        (0..self.elements()).map(|mut number| {
            let mut index = 0;
            for (length, stride) in self.shape.iter().zip(&self.strides).rev() {
                index += number % length * stride;
                number /= length;
            }
            index
        })
    }
}
