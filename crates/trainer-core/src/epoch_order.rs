use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

/// Returns the order of `n` rows in an epoch: a random permutation that depends only on `(seed, epoch, n)`.
///
/// A Fisher-Yates shuffle from the back that draws with the SplitMix64 generator (Steele, Lea and Flood, 2014) and
/// Lemire's unbiased reduction (2019). The order is part of the public interface: the same arguments yield the same order
/// in every version and on every machine.
///
/// ```
/// use trainer_core::epoch_order;
///
/// assert_eq!(epoch_order(42, 0, 8), [4, 2, 5, 1, 7, 0, 6, 3]);
/// assert_ne!(epoch_order(42, 1, 8), epoch_order(42, 0, 8));
/// ```
pub fn epoch_order(seed: u64, epoch: usize, n: usize) -> Vec<usize> {
    let mut random = SplitMix64::seed_from_u64(mix(mix(seed) ^ epoch as u64));
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(&mut random, last as u64 + 1) as usize);
    }
    order
}

/// Draws a uniform number below `bound`: the high half of a 128-bit product. Products whose low half would bias the
/// result are drawn again.
fn below(random: &mut SplitMix64, bound: u64) -> u64 {
    let biased = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(random.next_u64()) * u128::from(bound);
        if product as u64 >= biased {
            return (product >> 64) as u64;
        }
    }
}

/// The first number of the generator with this seed: a bijection that maps neighbouring seeds to distant
/// numbers.
fn mix(seed: u64) -> u64 {
    SplitMix64::seed_from_u64(seed).next_u64()
}

#[cfg(test)]
mod tests {
    use super::epoch_order;

    #[test]
    fn an_order_is_a_permutation() {
        for n in 0..40 {
            let mut order = epoch_order(7, 3, n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_row_is_first_equally_often() {
        let mut counts = [0; 6];
        for epoch in 0..6000 {
            counts[epoch_order(42, epoch, 6)[0]] += 1;
        }
        // Five standard deviations of a fair draw.
        assert!(counts.iter().all(|count: &i32| (count - 1000).abs() < 145), "{counts:?}");
    }
}
