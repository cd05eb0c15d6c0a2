use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

/// A stream of random numbers that is the same on every machine and in every version of this crate.
///
/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014): the n-th number
/// is a bijective mix of `start + n * GAMMA`. Samples depend on integers only. The only floating-point
/// operations are a division by a power of two, one multiplication and one addition, all exactly rounded.
pub(crate) struct Dice {
    random: SplitMix64,
}

/// The purpose of a stream, so that no two decisions share one.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    /// The creature and colour of each row.
    Deal = 1,
    /// Everything else about one row.
    Row = 2,
}

/// The step of the generator's state: 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

impl Dice {
    /// The stream of this kind with number `index`.
    pub(crate) fn new(seed: u64, stream: Stream, index: u64) -> Self {
        let state =
            [seed, stream as u64, index].into_iter().fold(0, |state, word| mix(state ^ mix(word ^ GAMMA)));
        Self { random: SplitMix64::seed_from_u64(state) }
    }

    /// An integer in `0..n`; the probabilities are equal up to `n / 2^32`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.random.next_u64() >> 32) * n as u64) >> 32) as usize
    }

    /// One of `items`, which must not be empty.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// True with a probability of `percent` in a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A number in `low..high`, uniform on 2^24 steps.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.random.next_u64() >> 40) as f32 / 16_777_216.0)
    }
}

/// The generator's mix of its state: its first number from the state before.
fn mix(state: u64) -> u64 {
    SplitMix64::seed_from_u64(state.wrapping_sub(GAMMA)).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_equal_those_of_the_published_generator() {
        // The first outputs of SplitMix64 from state 1234567.
        let mut random = SplitMix64::seed_from_u64(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn draws_are_about_uniform() {
        let mut dice = Dice::new(1, Stream::Row, 2);
        let mut counts = [0; 6];
        (0..60_000).for_each(|_| counts[dice.below(6)] += 1);
        assert!(counts.iter().all(|n| (9_600..10_400).contains(n)), "{counts:?}");
    }
}
