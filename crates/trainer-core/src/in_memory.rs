use crate::{BatchSource, Batches, Error, Result, epoch_order};

/// Samples in memory, in batches of equal size; the last batch of an epoch is smaller if they do not divide evenly.
///
/// A batch is a `Vec` of clones, so samples should be cheap to clone: numbers, indices, tensors. The order of
/// an epoch is that of the list, or a random one that depends only on the seed and the epoch's number.
///
/// ```
/// use trainer_core::{BatchSource, InMemory};
///
/// let data = InMemory::new(vec!['a', 'b', 'c', 'd', 'e'], 2)?;
/// let batches = |data: &InMemory<char>, epoch, first| -> Vec<String> {
///     data.epoch(epoch, first).map(|batch| batch.unwrap().into_iter().collect()).collect()
/// };
/// assert_eq!(batches(&data, 0, 0), ["ab", "cd", "e"]);
///
/// let shuffled = data.shuffled(42);
/// assert_ne!(batches(&shuffled, 0, 0), batches(&shuffled, 1, 0));
/// assert_eq!(batches(&shuffled, 1, 1), batches(&shuffled, 1, 0)[1..], "entered at the second batch");
/// # Ok::<(), trainer_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InMemory<S> {
    samples: Vec<S>,
    batch_size: usize,
    seed: Option<u64>,
}

impl<S: Clone> InMemory<S> {
    /// Creates a source that yields `samples` in their order, `batch_size` at a time.
    ///
    /// # Errors
    /// [`Error::Arguments`] for a batch size of 0.
    pub fn new(samples: Vec<S>, batch_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::Arguments { issues: vec!["batch_size must be at least 1, got 0".to_owned()] });
        }
        Ok(Self { samples, batch_size, seed: None })
    }

    /// Shuffles the samples differently in every epoch, in the [`epoch_order`] of this seed.
    #[must_use]
    pub fn shuffled(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// The samples, in the order they were given.
    pub fn samples(&self) -> &[S] {
        &self.samples
    }
}

impl<S: Clone> BatchSource for InMemory<S> {
    type Batch = Vec<S>;

    fn batches_per_epoch(&self) -> usize {
        self.samples.len().div_ceil(self.batch_size)
    }

    fn batch_samples(&self, batch: usize) -> Option<usize> {
        Some(self.samples.len().saturating_sub(batch * self.batch_size).min(self.batch_size))
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Vec<S>> {
        let Some(seed) = self.seed else {
            let batches = self.samples.chunks(self.batch_size).skip(first_batch);
            return Box::new(batches.map(|batch| Ok(batch.to_vec())));
        };
        let order = epoch_order(seed, epoch, self.samples.len());
        let batches = (first_batch..self.batches_per_epoch()).map(move |batch| {
            let indices = order[batch * self.batch_size..].iter().take(self.batch_size);
            Ok(indices.map(|&index| self.samples[index].clone()).collect())
        });
        Box::new(batches)
    }
}
