use crate::epoch_order;

/// The order of the samples of a dataset that is read in parts, its shards. In each epoch the shards are in
/// random order and grouped into windows, and the samples are shuffled within each window.
///
/// So only the data of one window have to be in memory, and each shard is read once an epoch. Like
/// [`epoch_order`], the order depends only on the arguments, so a run can be resumed at any position. If all
/// shards fit into one window, the order is that of `epoch_order`.
///
/// ```
/// use trainer_core::{WindowedOrder, epoch_order};
///
/// // Three shards of four samples, of 10 bytes each, and two at a time.
/// let order = WindowedOrder::new([(4, 10), (4, 10), (4, 10)], 20);
/// let epoch: Vec<usize> = order.epoch(42, 0).collect();
/// assert_eq!(epoch, [8, 2, 9, 1, 11, 0, 10, 3, 7, 5, 4, 6]);
/// assert_eq!(order.epoch_from(42, 0, 9).collect::<Vec<_>>(), epoch[9..]);
///
/// let one_window = WindowedOrder::new([(4, 10), (4, 10), (4, 10)], 30);
/// assert_eq!(one_window.epoch(42, 0).collect::<Vec<_>>(), epoch_order(42, 0, 12));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct WindowedOrder {
    shards: Vec<Shard>,
    window: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Shard {
    first: usize,
    samples: usize,
    bytes: u64,
}

impl WindowedOrder {
    /// The order of samples that are numbered shard by shard. `shards` has the number of samples and the size
    /// of each shard. A window takes shards whose sizes add up to at most `window`, or a single larger one.
    /// Sizes may be in any unit, such as bytes.
    pub fn new(shards: impl IntoIterator<Item = (usize, u64)>, window: u64) -> Self {
        let mut first = 0;
        let shard = |(samples, bytes)| {
            first += samples;
            Shard { first: first - samples, samples, bytes }
        };
        Self { shards: shards.into_iter().map(shard).collect(), window }
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.shards.last().map_or(0, |shard| shard.first + shard.samples)
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of windows of an epoch.
    pub fn windows(&self, seed: u64, epoch: usize) -> usize {
        self.windows_of(seed, epoch).len()
    }

    /// The samples in the order of an epoch, each once.
    pub fn epoch(&self, seed: u64, epoch: usize) -> impl Iterator<Item = usize> + Send + use<> {
        self.epoch_from(seed, epoch, 0)
    }

    /// The samples in the order of an epoch without the first `done`. One window at a time is in memory.
    pub fn epoch_from(
        &self,
        seed: u64,
        epoch: usize,
        done: usize,
    ) -> impl Iterator<Item = usize> + Send + use<> {
        let mut before = 0;
        let windows = self.windows_of(seed, epoch).into_iter().enumerate();
        let windows = windows.map(move |(number, shards)| {
            let samples: usize = shards.iter().map(|shard| shard.samples).sum();
            before += samples;
            (number, shards, samples, done.saturating_sub(before - samples))
        });
        windows.filter(|(_, _, samples, done)| done < samples).flat_map(move |(number, shards, _, done)| {
            // Window 0 uses the seed itself, so that the order of a single window is that of `epoch_order`.
            let seed = seed ^ (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let samples: Vec<usize> =
                shards.iter().flat_map(|shard| shard.first..shard.first + shard.samples).collect();
            let order = epoch_order(seed, epoch, samples.len());
            order.into_iter().skip(done).map(move |index| samples[index])
        })
    }

    /// The shards of each window, in ascending order.
    fn windows_of(&self, seed: u64, epoch: usize) -> Vec<Vec<Shard>> {
        let mut windows: Vec<Vec<Shard>> = Vec::new();
        let mut bytes = u64::MAX;
        for index in epoch_order(seed, epoch, self.shards.len()) {
            let shard = self.shards[index];
            bytes = bytes.saturating_add(shard.bytes);
            match windows.last_mut().filter(|_| bytes <= self.window) {
                Some(window) => window.push(shard),
                None => {
                    windows.push(vec![shard]);
                    bytes = shard.bytes;
                }
            }
        }
        windows.iter_mut().for_each(|window| window.sort_unstable_by_key(|shard| shard.first));
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> WindowedOrder {
        // A shard without samples, and one that is larger than a window.
        WindowedOrder::new([(3, 5), (0, 1), (7, 5), (1, 2), (20, 40), (4, 4)], 10)
    }

    #[test]
    fn an_epoch_has_each_sample_once_wherever_it_is_entered() {
        for epoch in 0..20 {
            let all: Vec<usize> = order().epoch(7, epoch).collect();
            let mut sorted = all.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..35).collect::<Vec<_>>());
            for done in 0..=36 {
                let rest: Vec<usize> = order().epoch_from(7, epoch, done).collect();
                assert_eq!(rest, all[done.min(35)..], "epoch {epoch}, entered at {done}");
            }
        }
    }

    #[test]
    fn a_window_is_not_larger_than_its_budget_unless_it_is_one_shard() {
        for epoch in 0..20 {
            let windows = order().windows_of(7, epoch);
            for window in &windows {
                let bytes: u64 = window.iter().map(|shard| shard.bytes).sum();
                assert!(bytes <= 10 || window.len() == 1, "{window:?}");
            }
            assert_eq!(windows.len(), order().windows(7, epoch));
        }
    }

    #[test]
    fn epochs_differ_in_the_shards_of_their_windows() {
        let shards = WindowedOrder::new([(1, 1); 64], 8);
        let windows = |epoch| {
            let windows = shards.windows_of(42, epoch);
            windows
                .iter()
                .map(|window| window.iter().map(|shard| shard.first).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(windows(0), windows(0));
        let earlier = windows(0);
        assert!(windows(1).iter().all(|window| !earlier.contains(window)));
    }
}
