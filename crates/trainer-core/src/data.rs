use crate::{BoxError, Error, Result};

/// The batches of an epoch, in order.
pub type Batches<'a, B> = Box<dyn Iterator<Item = Result<B, BoxError>> + 'a>;

/// A data loader.
///
/// The batches of an epoch depend only on the epoch's number, and iteration can start at any batch: a run can therefore
/// resume without replaying the data. [`epoch_order`](crate::epoch_order) yields such an order.
///
/// - [`InMemory`](crate::InMemory) batches a list of samples and can shuffle it every epoch.
/// - A `Vec` of batches is a source with the same order in every epoch, which suits evaluation.
pub trait BatchSource {
    /// The type that a [`Task`](crate::Task) takes.
    type Batch;

    /// Returns the number of batches in every epoch.
    fn batches_per_epoch(&self) -> usize;

    /// Returns the batches of `epoch` (from 0), starting at the batch with index `first_batch`.
    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Self::Batch>;

    /// Returns the number of samples in the batch with this index, in any epoch, if it is known without loading
    /// the batch. Then each of several [`Workers`](crate::Workers) [selects](Self::select) its own batches;
    /// otherwise it loads all batches and counts the samples of those of the others. Default: unknown.
    fn batch_samples(&self, _batch: usize) -> Option<usize> {
        None
    }

    /// Returns the batches of `epoch` with these indices, which are in ascending order. Default: those of
    /// [`epoch`](Self::epoch), all of which are loaded.
    fn select(&self, epoch: usize, batches: Vec<usize>) -> Batches<'_, Self::Batch> {
        let (Some(first), Some(last)) = (batches.first().copied(), batches.last().copied()) else {
            return Box::new(std::iter::empty());
        };
        let loaded = (first..=last).zip(self.epoch(epoch, first));
        let selected = loaded.filter(move |(index, _)| batches.binary_search(index).is_ok());
        Box::new(selected.map(|(_, batch)| batch))
    }
}

impl<B: Clone> BatchSource for Vec<B> {
    type Batch = B;

    fn batches_per_epoch(&self) -> usize {
        self.len()
    }

    fn epoch(&self, _epoch: usize, first_batch: usize) -> Batches<'_, B> {
        Box::new(self.iter().skip(first_batch).cloned().map(Ok))
    }
}

/// The batches of one epoch, counted, with errors that name their position.
pub(crate) struct Epoch<'a, B> {
    source: &'a dyn BatchSource<Batch = B>,
    batches: Batches<'a, B>,
    /// Whether `batches` are only those that are not skipped.
    is_selected: bool,
    role: &'static str,
    epoch: usize,
    next: usize,
    len: usize,
}

impl<'a, B> Epoch<'a, B> {
    pub(crate) fn new(
        source: &'a dyn BatchSource<Batch = B>,
        role: &'static str,
        epoch: usize,
        first: usize,
    ) -> Self {
        let (batches, len) = (source.epoch(epoch, first), source.batches_per_epoch());
        Self { source, batches, is_selected: false, role, epoch, next: first, len }
    }

    /// The batches of an epoch from `first` on. With a list `own`, the caller takes only the batches with these
    /// indices and [skips](Self::skip) all others.
    pub(crate) fn selected(
        source: &'a dyn BatchSource<Batch = B>,
        role: &'static str,
        epoch: usize,
        first: usize,
        own: Option<Vec<usize>>,
    ) -> Self {
        let Some(own) = own.filter(|_| source.batch_samples(first).is_some()) else {
            return Self::new(source, role, epoch, first);
        };
        let len = source.batches_per_epoch();
        Self { source, batches: source.select(epoch, own), is_selected: true, role, epoch, next: first, len }
    }

    /// Skips some batches, and returns the number of their samples.
    pub(crate) fn skip(&mut self, count: usize, samples: impl Fn(&B) -> usize) -> Result<usize> {
        let mut skipped = 0;
        for _ in 0..count {
            if self.is_selected {
                skipped += self.source.batch_samples(self.next).unwrap_or_default();
                self.next += 1;
            } else {
                skipped += samples(&self.next_batch()?);
            }
        }
        Ok(skipped)
    }

    /// Returns the next batch. The caller knows from the plan that there is one.
    pub(crate) fn next_batch(&mut self) -> Result<B> {
        let (role, epoch, batch) = (self.role, self.epoch, self.next);
        self.next += 1;
        match self.batches.next() {
            Some(Ok(item)) => Ok(item),
            Some(Err(source)) => Err(Error::Data { role, epoch, batch, source }),
            None => Err(Error::ShortEpoch { role, epoch, expected: self.len, got: batch }),
        }
    }
}
