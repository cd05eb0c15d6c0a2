//! Attention of training.

use train_ops::{AttentionMask, Dropout, KeyLengths, attention, padded_attention};

use crate::common::{Frozen, ONE, Trained, check, training};

const HEADS: usize = 2;

/// Two samples, whose numbers of real keys differ if there are `lengths`.
fn check_attention(
    [queries, keys, head_dim]: [usize; 3],
    mask: AttentionMask,
    p: f32,
    lengths: Option<[usize; 2]>,
) {
    let dropout = Dropout::new("probabilities", p).unwrap();
    let lengths = lengths.map(KeyLengths::new);
    let width = HEADS * head_dim;
    let (queries, keys) = (&[2, queries, width][..], &[2, keys, width][..]);
    let name = format!("{queries:?} x {keys:?}, {mask:?}, dropout {p}, lengths {lengths:?}");
    check(&name, &[(Trained, 1, queries), (Trained, 2, keys), (Trained, 3, keys)], ONE, |x| {
        let inputs = [&x[0], &x[1], &x[2]];
        padded_attention(inputs, HEADS, mask, lengths.as_ref(), &dropout, &training()).unwrap()
    });
}

fn causal(prefix: usize, first_query: usize) -> AttentionMask {
    AttentionMask::CausalAfterPrefix { prefix, first_query }
}

#[test]
fn attention_with_masks_and_dropout() {
    for mask in [AttentionMask::Full, causal(4, 3)] {
        for (p, head_dim) in [(0.0, 8), (0.3, 8), (0.3, 12), (0.0, 36), (0.3, 64)] {
            check_attention([4, 7, head_dim], mask, p, None);
            check_attention([4, 7, head_dim], mask, p, Some([7, 4]));
        }
    }
}

#[test]
fn attention_over_frozen_keys() {
    let dropout = Dropout::new("probabilities", 0.3).unwrap();
    for head_dim in [8, 64] {
        let (queries, keys) = (&[2, 4, HEADS * head_dim][..], &[2, 7, HEADS * head_dim][..]);
        let inputs = [(Trained, 1, queries), (Frozen, 2, keys), (Trained, 3, keys)];
        check("frozen keys", &inputs, ONE, |x| {
            attention(&x[0], &x[1], &x[2], HEADS, AttentionMask::Full, &dropout, &training()).unwrap()
        });
    }
}

/// A tile has 64 queries or keys; heads of up to 32 and up to 64 features have a kernel each, which reads 16 bytes or one element at a
/// time.
#[test]
fn attention_over_several_tiles() {
    let sizes = |head_dim| [70, 131, head_dim];
    for head_dim in [17, 32, 33, 64] {
        check_attention(sizes(head_dim), AttentionMask::Full, 0.0, None);
        // The last query alone sees the last key.
        check_attention(sizes(head_dim), causal(40, 61), 0.3, None);
        // No query sees the last tile of keys.
        check_attention(sizes(head_dim), causal(3, 0), 0.3, Some([131, 65]));
    }
}

/// Candle's operations compute heads that no kernel has.
#[test]
fn attention_of_heads_of_more_than_64_features() {
    for head_dim in [65, 72] {
        check_attention([4, 7, head_dim], causal(4, 3), 0.3, None);
        check_attention([4, 7, head_dim], AttentionMask::Full, 0.0, Some([7, 4]));
    }
}
