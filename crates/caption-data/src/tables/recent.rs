//! A cache of the values that were used last, up to a number of bytes.

use std::sync::Arc;

/// The values that were used last. The least recently used ones are dropped when all together take more than a
/// number of bytes, but never the newest two. If only one were kept, two threads that use neighbouring values,
/// each larger than half of the bytes, would read them again and again.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    /// The newest is at the end.
    entries: Vec<Entry<K, V>>,
    budget: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: Arc<V>,
    bytes: usize,
}

/// The number of values that are never dropped.
const KEPT: usize = 2;

impl<K: PartialEq, V> Recent<K, V> {
    /// No values yet. They may take `budget` bytes.
    pub(crate) fn new(budget: usize) -> Self {
        Self { entries: Vec::new(), budget }
    }

    /// The value of a key, which counts as used now.
    pub(crate) fn get(&mut self, key: &K) -> Option<Arc<V>> {
        let at = self.entries.iter().rposition(|entry| entry.key == *key)?;
        let entry = self.entries.remove(at);
        let value = Arc::clone(&entry.value);
        self.entries.push(entry);
        Some(value)
    }

    /// Adds the value of a new key, which takes this many bytes.
    pub(crate) fn add(&mut self, key: K, value: V, bytes: usize) -> Arc<V> {
        let value = Arc::new(value);
        self.entries.push(Entry { key, value: Arc::clone(&value), bytes });
        let mut total: usize = self.entries.iter().map(|entry| entry.bytes).sum();
        let oldest = self.entries.iter().take(self.entries.len().saturating_sub(KEPT)).take_while(|entry| {
            let drops = total > self.budget;
            total -= if drops { entry.bytes } else { 0 };
            drops
        });
        let dropped = oldest.count();
        self.entries.drain(..dropped);
        value
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that fails panics")]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_values_are_dropped_and_never_the_newest_two() {
        let mut recent = Recent::new(10);
        for key in 0..3 {
            recent.add(key, key, 3);
        }
        assert_eq!(recent.get(&0).as_deref(), Some(&0));
        recent.add(3, 3, 4); // 13 bytes: the oldest is 1
        assert_eq!([0, 1, 2, 3].map(|key| recent.get(&key).is_some()), [true, false, true, true]);
        recent.add(4, 4, 100);
        assert_eq!([0, 2, 3, 4].map(|key| recent.get(&key).is_some()), [false, false, true, true]);
        recent.add(5, 5, 100);
        assert_eq!([3, 4, 5].map(|key| recent.get(&key).is_some()), [false, true, true]);
    }
}
