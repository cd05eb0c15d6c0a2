//! The order of a split's rows in each epoch.

use std::sync::Arc;

use caption_data::Shard;
use trainer_core::{WindowedOrder, epoch_order};

/// The rows of a split, and their order in each epoch. It depends only on the number of the epoch, so that a
/// run can be resumed at any position.
#[derive(Clone, Debug)]
pub struct RowOrder {
    rows: Arc<[usize]>,
    shuffle: Option<u64>,
    windows: Option<Arc<WindowedOrder>>,
}

impl RowOrder {
    /// The rows in the given order, in every epoch.
    pub fn fixed(rows: impl Into<Arc<[usize]>>) -> Self {
        Self { rows: rows.into(), shuffle: None, windows: None }
    }

    /// The same rows, shuffled in every epoch. With `windows`, they are shuffled within each window; the
    /// windows number the rows by their position in this order.
    #[must_use]
    pub fn shuffled(self, seed: u64, windows: Option<Arc<WindowedOrder>>) -> Self {
        Self { shuffle: Some(seed), windows, ..self }
    }

    /// The rows, in their original order.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// The rows in the order of an epoch, without the first `done`.
    pub fn epoch(&self, epoch: usize, done: usize) -> Box<dyn Iterator<Item = usize> + Send> {
        let rows = Arc::clone(&self.rows);
        let row = move |index: usize| rows[index];
        match (self.shuffle, &self.windows) {
            (Some(seed), Some(windows)) => Box::new(windows.epoch_from(seed, epoch, done).map(row)),
            (Some(seed), None) => {
                Box::new(epoch_order(seed, epoch, self.rows.len()).into_iter().skip(done).map(row))
            }
            (None, _) => Box::new((done..self.rows.len()).map(row)),
        }
    }

    /// The rows of the first `samples` samples, in no particular order: all rows, unless training ends within its first
    /// epoch.
    pub fn first(&self, samples: usize) -> Vec<usize> {
        if samples >= self.rows.len() {
            return self.rows.to_vec();
        }
        self.epoch(0, 0).take(samples).collect()
    }
}

/// Whether a window of `window` bytes of pictures has room for all shards.
pub(crate) fn is_one_window(shards: &[Shard], window: u64) -> bool {
    shards.iter().map(|shard| shard.bytes).sum::<u64>() <= window
}

/// The order of `rows`, which are in ascending order, in windows of `window` bytes of pictures.
pub(crate) fn windows(shards: &[Shard], rows: &[usize], window: u64) -> WindowedOrder {
    let (mut rest, mut end) = (rows, 0);
    let shards = shards.iter().map(|shard| {
        end += shard.rows;
        let here = rest.partition_point(|row| *row < end);
        rest = &rest[here..];
        (here, shard.bytes)
    });
    WindowedOrder::new(shards, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_the_rows_of_whole_shards() {
        let shards = [Shard { rows: 4, bytes: 10 }; 4];
        let rows = vec![0, 3, 4, 5, 6, 12, 15]; // two, three, none and two of the shards' rows
        let order = Arc::new(windows(&shards, &rows, 20));
        let order = RowOrder::fixed(rows.clone()).shuffled(42, Some(order));
        for epoch in 0..10 {
            let all: Vec<usize> = order.epoch(epoch, 0).collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, rows);
            assert_eq!(order.epoch(epoch, 3).collect::<Vec<_>>(), all[3..]);
        }
        assert_eq!(order.first(3), order.epoch(0, 0).take(3).collect::<Vec<_>>());
        assert!(is_one_window(&shards, 40) && is_one_window(&[], 0) && !is_one_window(&shards, 39));
    }
}
