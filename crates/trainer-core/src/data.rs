use crate::{BoxError, Error, Result};

/// The batches of an epoch, in order.
pub type Batches<'a, B> = Box<dyn Iterator<Item = Result<B, BoxError>> + 'a>;

/// Where batches come from.
///
/// The batches of an epoch are a function of the epoch's number alone, and can be entered anywhere: that is what lets
/// a run resume without replaying what it has seen. [`epoch_order`](crate::epoch_order) gives such an order.
///
/// A `Vec` of batches is a source that has the same order every epoch, as evaluation wants it.
pub trait BatchSource {
    /// What a [`Task`](crate::Task) takes.
    type Batch;

    /// Batches in every epoch.
    fn batches_per_epoch(&self) -> usize;

    /// The batches of `epoch`, from 0, beginning with the one of index `first_batch`.
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

/// The batches of one epoch of a source, counted, with errors that say where they are from.
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

    /// The next batch, which the caller knows to be there.
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
