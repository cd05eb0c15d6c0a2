//! The words of packed matrices, and the forms in which products read them.

use half::bf16;

use crate::Precision;
use crate::dispatch::for_each_isa;

/// The bits of the second bf16 of a pair.
pub(crate) const HIGH_HALF: u32 = 0xffff_0000;

/// Words along `k`.
pub(crate) fn words(precision: Precision, k: usize) -> usize {
    match precision {
        Precision::F32 => k,
        Precision::Bf16 => k.div_ceil(2),
        Precision::Int8 => k.div_ceil(4),
    }
}

/// Two values rounded to bf16 in one word, the first in the low half.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> u32 {
    u32::from(bf16::from_f32(first).to_bits()) | u32::from(bf16::from_f32(second).to_bits()) << 16
}

for_each_isa! {
    /// Pairs as f32: each row of pairs becomes the row of its first values and the row of its second ones.
    pub(crate) fn widen(isa: Isa, pairs: &[u32], width: usize, wide: &mut [u32]) {
        for (pairs, wide) in pairs.chunks_exact(width).zip(wide.chunks_exact_mut(2 * width)) {
            let (first, second) = wide.split_at_mut(width);
            for ((pair, first), second) in pairs.iter().zip(first).zip(second) {
                (*first, *second) = (pair << 16, pair & HIGH_HALF);
            }
        }
    }

    /// Interleaves two rows of words at a time, column by column: both words of the first column, of the
    /// second, and so on. The last of an odd number of rows is unchanged.
    pub(crate) fn interleave(isa: Isa, words: &[u32], width: usize, to: &mut [u32]) {
        let (rows, to) = (words.chunks_exact(2 * width), &mut to[..words.len()]);
        let last = rows.remainder();
        let (pairs, rest) = to.split_at_mut(words.len() - last.len());
        for (rows, to) in rows.zip(pairs.chunks_exact_mut(2 * width)) {
            let (first, second) = rows.split_at(width);
            for ((to, first), second) in to.as_chunks_mut::<2>().0.iter_mut().zip(first).zip(second) {
                *to = [*first, *second];
            }
        }
        rest.copy_from_slice(last);
    }

    /// int8 as f32: each row of words becomes four rows, one for each of their bytes.
    pub(crate) fn widen_bytes(isa: Isa, words: &[u32], width: usize, wide: &mut [u32]) {
        for (words, wide) in words.chunks_exact(width).zip(wide.chunks_exact_mut(4 * width)) {
            for (shift, wide) in [24, 16, 8, 0].into_iter().zip(wide.chunks_exact_mut(width)) {
                for (word, wide) in words.iter().zip(wide) {
                    *wide = (((word << shift) as i32 >> 24) as f32).to_bits();
                }
            }
        }
    }

    /// Adds 128 to each byte, whose sign is lost: from -128..128 to 0..256.
    pub(crate) fn to_unsigned(isa: Isa, words: &[u32], to: &mut [u32]) {
        for (to, word) in to.iter_mut().zip(words) {
            *to = word ^ 0x8080_8080;
        }
    }
}
