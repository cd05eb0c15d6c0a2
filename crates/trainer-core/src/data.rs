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
    batches: Batches<'a, B>,
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
        Self {
            batches: source.epoch(epoch, first),
            role,
            epoch,
            next: first,
            len: source.batches_per_epoch(),
        }
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
