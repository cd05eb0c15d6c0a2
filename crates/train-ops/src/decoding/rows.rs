use std::sync::OnceLock;

use candle_core::Tensor;

use crate::{Error, Result};

/// The sequences that are decoded together: the image of each, and the cache slots of the keys and values of
/// its tokens.
///
/// Keys and values of a token stay in their slot. A sequence is a list of slots. So when a beam forks or
/// replaces another, only a short list is copied, and no keys and values.
#[derive(Clone, Debug)]
pub struct DecodingRows {
    pub(crate) rows: Vec<Row>,
    /// Number of slots in use.
    pub(super) used: usize,
    /// The rows in the form that GPU kernels read, on the device. They are copied there once a step, for all
    /// layers.
    pub(crate) on_device: OnceLock<RowTable>,
}

/// The numbers of [`DecodingRows::numbers`] on a device.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "fused-cuda"), expect(dead_code, reason = "only kernels read the numbers"))]
pub(crate) struct RowTable {
    pub(crate) numbers: Tensor,
    /// Slots of each row.
    pub(crate) columns: usize,
    /// Whether [`DecodingRows::with_numbers`] gave the numbers, which may then change.
    pub(crate) given: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(super) image: usize,
    pub(crate) slots: Vec<usize>,
}

impl DecodingRows {
    /// One sequence without text for each image.
    pub fn new(images: usize) -> Self {
        let row = |image| Row { image, slots: Vec::new() };
        Self { rows: (0..images).map(row).collect(), used: 0, on_device: OnceLock::new() }
    }

    /// Joins the sequences of several consecutive steps as rows of one step: those of the first, then those of
    /// the second, and so on. Each of `steps` results from the one before by [`reorder`](Self::reorder) and
    /// [`extend`](Self::extend).
    ///
    /// If the tokens of these steps are known, as in the verification of speculative decoding, a model can so
    /// compute all steps in one pass.
    pub fn join<'a>(steps: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut joined = Self::new(0);
        for step in steps {
            joined.rows.extend(step.rows.iter().cloned());
            joined.used = joined.used.max(step.used);
        }
        joined
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The image of each sequence.
    pub fn images(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.image)
    }

    /// Text tokens of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.slots.len())
    }

    /// Text tokens of the longest sequence.
    pub fn tokens(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// Replaces sequence `i` by a copy of sequence `parents[i]`, for all sequences at once.
    ///
    /// # Errors
    /// If there is no such sequence; then nothing changes.
    pub fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        let sequences = self.rows.len();
        let rows = parents
            .iter()
            .map(|&parent| self.rows.get(parent).cloned().ok_or(Error::Sequence { parent, sequences }));
        self.rows = rows.collect::<Result<_>>()?;
        self.on_device = OnceLock::new();
        Ok(())
    }

    /// Assigns slots to `new` more tokens of each sequence: consecutive slots to the first sequence, then to
    /// the second, and so on.
    pub fn extend(&mut self, new: usize) {
        self.on_device = OnceLock::new();
        for row in &mut self.rows {
            row.slots.extend(self.used..self.used + new);
            self.used += new;
        }
    }

    /// The rows as the kernels of a GPU read them: the image of each, then the number of its tokens, then the slots of its tokens,
    /// in `columns` numbers for each row. That is at least the number of [`tokens`](Self::tokens); the rest is 0.
    pub fn numbers(&self, columns: usize) -> Vec<u32> {
        let images = self.images().map(|image| image as u32);
        let lengths = self.lengths().map(|length| length as u32);
        let slots = self.rows.iter().flat_map(|row| {
            let slots = row.slots.iter().map(|slot| *slot as u32);
            slots.chain(std::iter::repeat(0)).take(columns)
        });
        images.chain(lengths).chain(slots).collect()
    }

    /// These rows, whose [`numbers`](Self::numbers) with `columns` are on the device already, as `numbers` of type u32. A graph that
    /// is recorded with them reads images, lengths and slots there in each replay, and nothing of these rows but how many there are.
    /// Then only the kernels of `cuda-kernels` can use the rows.
    ///
    /// # Errors
    /// If `numbers` are too few.
    pub fn with_numbers(&self, numbers: Tensor, columns: usize) -> Result<Self> {
        let expected = self.len() * (2 + columns);
        if numbers.dims() != [expected] || columns < self.tokens() {
            return Err(Error::Shape {
                path: "numbers of rows".to_owned(),
                expected: format!(
                    "({expected}), with {} slots for each of {} rows",
                    self.tokens(),
                    self.len()
                ),
                got: numbers.dims().to_vec(),
            });
        }
        Ok(Self { on_device: RowTable { numbers, columns, given: true }.into(), ..self.clone() })
    }

    /// An error if the numbers of the rows were given on a device, where no kernel reads them for tensors like this one.
    pub(super) fn on_host(&self, operation: &'static str, tensor: &Tensor) -> Result<()> {
        match self.on_device.get() {
            Some(table) if table.given => Err(Error::RowsOnDevice {
                operation,
                dtype: tensor.dtype(),
                device: format!("{:?}", tensor.device().location()),
            }),
            _ => Ok(()),
        }
    }

    /// The first slot of the last `new` tokens of all sequences, if each sequence has that many and their slots
    /// are consecutive.
    pub(super) fn newest(&self, new: usize) -> Option<usize> {
        let first = self.used.checked_sub(self.len() * new)?;
        let mut slots = first..;
        for row in &self.rows {
            let newest = &row.slots[row.slots.len().checked_sub(new)?..];
            if !newest.iter().copied().eq(slots.by_ref().take(new)) {
                return None;
            }
        }
        Some(first)
    }
}
