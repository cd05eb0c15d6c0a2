//! Rows for `vpmaddubsw`, the instruction of AVX2 that multiplies four bytes of a row by four of the matrix and adds the
//! products of the first two and of the last two in 16 bits.
//!
//! These sums saturate. But the bytes of the matrix, plus 128, are at most 255, and 255 · 128 < 2¹⁵: while the magnitudes of two
//! neighbours of a row add up to at most 128, every sum is exact. The part of a pair beyond this bound, its *excess*, is multiplied
//! apart. In normally distributed rows, one pair in 20 to 30 has an excess.

use crate::dispatch::for_each_isa;

/// The bound for the magnitudes of two neighbours.
const BOUND: u16 = 128;
/// Pairs that are examined together.
const CHUNK: usize = 32;

/// Four bytes with sign that belong to a word of a row, in addition to the word itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) word: usize,
    pub(super) bytes: u32,
}

/// Takes the excess out of integers of magnitudes up to 127, whose number is a multiple of 64. Returns 128 times their sum with it,
/// and the excess in the order of the words.
pub(super) fn bound_pairs(isa: crate::Isa, integers: &mut [u8]) -> (i32, Vec<Excess>) {
    let mut excess = Vec::new();
    let pairs = integers.as_chunks_mut::<2>().0.as_chunks_mut::<CHUNK>().0;
    let sum = scan(isa, pairs, &mut excess);
    (sum << 7, excess)
}

/// Takes `beyond`, which is not zero, out of pair number `place` of a row.
fn move_excess(pair: &mut [u8; 2], beyond: u8, place: usize, excess: &mut Vec<Excess>) {
    let magnitudes = pair.map(|byte| (byte as i8).unsigned_abs());
    // The larger of the two is at least 65, and at most 126 is beyond the bound: its sign does not change.
    let larger = usize::from(magnitudes[1] > magnitudes[0]);
    let moved = if (pair[larger] as i8) < 0 { beyond.wrapping_neg() } else { beyond };
    pair[larger] = pair[larger].wrapping_sub(moved);
    let word = place / 2;
    let bytes = u32::from(moved) << (8 * (2 * (place % 2) + larger));
    match excess.last_mut() {
        Some(last) if last.word == word => last.bytes |= bytes,
        _ => excess.push(Excess { word, bytes }),
    }
}

for_each_isa! {
    /// Takes the excess out of all pairs; returns the sum of the integers with it.
    fn scan(isa: Isa, pairs: &mut [[[u8; 2]; CHUNK]], excess: &mut Vec<Excess>) -> i32 {
        let mut sum = 0;
        for (index, pairs) in pairs.iter_mut().enumerate() {
            let (mut sum_of_chunk, mut beyond) = (0, [0; CHUNK]);
            for (pair, beyond) in pairs.iter().zip(&mut beyond) {
                let [first, second] = pair.map(|byte| i16::from(byte as i8));
                sum_of_chunk += first + second;
                *beyond = (first.unsigned_abs() + second.unsigned_abs()).saturating_sub(BOUND) as u8;
            }
            sum += i32::from(sum_of_chunk);
            for (group, beyond) in beyond.as_chunks::<8>().0.iter().enumerate() {
                // Most pairs have no excess, so look for the others eight at a time.
                let mut rest = u64::from_le_bytes(*beyond);
                while rest != 0 {
                    let place = rest.trailing_zeros() as usize / 8;
                    let place_in_chunk = 8 * group + place;
                    move_excess(&mut pairs[place_in_chunk], beyond[place], CHUNK * index + place_in_chunk, excess);
                    rest &= !(0xff << (8 * place));
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    /// Every pair of integers from -127 to 127, and zeros.
    fn all_pairs() -> Vec<u8> {
        let values = || -127i8..=127;
        let mut integers: Vec<u8> =
            values().flat_map(|a| values().flat_map(move |b| [a as u8, b as u8])).collect();
        integers.resize(integers.len().next_multiple_of(2 * CHUNK), 0);
        integers
    }

    #[test]
    fn every_pair_stays_within_the_bound_and_adds_up_with_its_excess() {
        let integers = all_pairs();
        for isa in Isa::supported() {
            let mut bounded = integers.clone();
            let (offset, excess) = bound_pairs(isa, &mut bounded);
            assert_eq!(offset, 128 * integers.iter().map(|byte| i32::from(*byte as i8)).sum::<i32>());
            for pair in bounded.as_chunks::<2>().0 {
                let sum: u16 = pair.iter().map(|byte| u16::from((*byte as i8).unsigned_abs())).sum();
                assert!(sum <= BOUND, "{pair:?}");
            }
            assert!(excess.is_sorted_by(|a, b| a.word < b.word));
            for Excess { word, bytes } in &excess {
                let bytes = bytes.to_le_bytes();
                // The excess must not saturate either.
                assert!(bytes.as_chunks::<2>().0.iter().all(|pair| pair.contains(&0)), "{bytes:?}");
                for (integer, excess) in bounded[4 * word..].iter_mut().zip(bytes) {
                    *integer = integer.wrapping_add(excess);
                }
            }
            assert_eq!(bounded, integers);
        }
    }
}
