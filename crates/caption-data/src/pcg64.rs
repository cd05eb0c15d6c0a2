//! NumPy's generator behind `numpy.random.default_rng(seed)`, with the functions that `permutation` needs.
//!
//! `SeedSequence` expands the seed to 256 bits of state (M. E. O'Neill's seed_seq without its flaws). The
//! state drives PCG64, a 128-bit linear congruential generator with the XSL-RR output function (O'Neill,
//! "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number Generation",
//! 2014).

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// NumPy's PCG64, seeded as `default_rng(seed)` seeds it.
pub(crate) struct Pcg64 {
    state: u128,
    increment: u128,
    /// The high half of the last 64-bit output, which NumPy returns at the next request for 32 bits.
    spare: Option<u32>,
}

impl Pcg64 {
    pub(crate) fn new(seed: u64) -> Self {
        let [state, stream] = seed_sequence(seed);
        let mut rng = Self { state: 0, increment: stream << 1 | 1, spare: None };
        rng.step();
        rng.state = rng.state.wrapping_add(state);
        rng.step();
        rng
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.spare.take() {
            return high;
        }
        let both = self.next_u64();
        self.spare = Some((both >> 32) as u32);
        both as u32
    }

    /// A number in `0..=max`, by rejection: draws as many bits as `max` has, until the number is not above
    /// it.
    fn up_to(&mut self, max: u64) -> u64 {
        let mask = u64::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let draw = if max <= u64::from(u32::MAX) { u64::from(self.next_u32()) } else { self.next_u64() };
            if draw & mask <= max {
                return draw & mask;
            }
        }
    }

    /// `Generator.permutation(n)`: `0..n` shuffled from its end (Fisher-Yates).
    pub(crate) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            items.swap(i, self.up_to(i as u64) as usize);
        }
        items
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`, as PCG64 uses it: its initial state and its stream.
fn seed_sequence(seed: u64) -> [u128; 2] {
    let mut hash = 0x43B0_D7E5u32;
    let mut hashmix = |value: u32| {
        let value = value ^ hash;
        hash = hash.wrapping_mul(0x931E_8875);
        let value = value.wrapping_mul(hash);
        value ^ value >> 16
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hashmix);
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                let (x, y) = (pool[to], hashmix(pool[from]));
                let mixed = x.wrapping_mul(0xCA01_F9DD).wrapping_sub(y.wrapping_mul(0x4973_F715));
                pool[to] = mixed ^ mixed >> 16;
            }
        }
    }
    let mut hash = 0x8B51_F9DDu32;
    let mut words = pool.into_iter().cycle().map(|word| {
        let value = word ^ hash;
        hash = hash.wrapping_mul(0x58F3_8DED);
        let value = value.wrapping_mul(hash);
        u128::from(value ^ value >> 16)
    });
    // Two 64-bit halves, the high one first; each of two 32-bit words, the low one first.
    [(); 2].map(|()| {
        [64, 96, 0, 32].into_iter().fold(0, |state, shift| state | words.next().unwrap_or_default() << shift)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_output_equals_numpys() {
        let mut rng = Pcg64::new(42);
        // np.random.default_rng(42).bit_generator.random_raw(6)
        let expected = [
            14276969152011380360,
            8095878257575067585,
            15838336090824644132,
            12864169557245331597,
            1737265434024182251,
            17997055833233904524,
        ];
        assert_eq!(expected.map(|_| rng.next_u64()), expected);
    }

    #[test]
    fn bounded_draws_cover_their_range_and_nothing_else() {
        let mut rng = Pcg64::new(0);
        for max in [0, 1, 2, 6, 7, 8] {
            let mut seen = vec![0; max as usize + 1];
            (0..500).for_each(|_| seen[rng.up_to(max) as usize] += 1);
            assert!(seen.iter().all(|&count| count > 0), "{max}: {seen:?}");
        }
    }
}
