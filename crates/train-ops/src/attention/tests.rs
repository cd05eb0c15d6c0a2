use candle_core::{DType, Device, Var};

use super::*;
use crate::sample_key;

fn var(seed: f32, shape: (usize, usize, usize)) -> Var {
    let values = (0..shape.0 * shape.1 * shape.2).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0);
    Var::from_vec(values.collect(), shape, &Device::Cpu).unwrap()
}

/// The kernel must agree with candle's operations in f64 in the result and in all three gradients.
fn agrees_with_composition(queries: usize, keys: usize, mask: AttentionMask, p: f32) {
    // One of a sample, or both; without padding and with it.
    for samples in [2, 1] {
        for lengths in [None, Some(KeyLengths::new([keys, keys.div_ceil(2)]))] {
            agrees_with_composition_of(samples, [queries, keys], mask, lengths.as_ref(), p);
        }
    }
}

fn agrees_with_composition_of(
    samples: u64,
    [queries, keys]: [usize; 2],
    mask: AttentionMask,
    lengths: Option<&KeyLengths>,
    p: f32,
) {
    let (heads, head_dim, batch) = (3, 5, 2);
    let width = heads * head_dim;
    let inputs =
        [var(0.1, (batch, queries, width)), var(0.2, (batch, keys, width)), var(0.3, (batch, keys, width))];
    let exact = inputs
        .each_ref()
        .map(|input| Var::from_tensor(&input.as_detached_tensor().to_dtype(DType::F64).unwrap()).unwrap());
    let dropout = Dropout::new("probs", p).unwrap();
    let ctx =
        ForwardContext::training((0..samples).map(|sample| sample_key(0, 0, sample)).collect::<Vec<_>>());
    let weights = var(0.4, (batch, queries, width)).as_detached_tensor();
    // The context and the gradients of queries, keys and values.
    let run = |[q, k, v]: &[Var; 3]| {
        let context = padded_attention([q.as_tensor(), k, v], heads, mask, lengths, &dropout, &ctx).unwrap();
        let weights = weights.to_dtype(context.dtype()).unwrap();
        let gradients = (&context * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let gradients = [q, k, v].map(|input| gradients.get(input).unwrap().clone());
        [vec![context], gradients.to_vec()]
            .concat()
            .into_iter()
            .map(|tensor| {
                let tensor = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                tensor.to_vec1::<f64>().unwrap()
            })
            .collect::<Vec<_>>()
    };
    let names = ["context", "query", "key", "value"];
    for (name, (got, exact)) in names.iter().zip(run(&inputs).into_iter().zip(run(&exact))) {
        let largest = exact.iter().fold(1f64, |largest, value| largest.max(value.abs()));
        for (got, exact) in got.iter().zip(&exact) {
            assert!((got - exact).abs() <= 2e-6 * largest, "{name}: {got}, not {exact}, {mask:?}, p {p}");
        }
    }
}

#[test]
fn kernel_agrees_with_candle_in_value_and_gradients() {
    for p in [0.0, 0.3] {
        agrees_with_composition(7, 7, AttentionMask::Full, p);
        agrees_with_composition(9, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 0 }, p);
        agrees_with_composition(3, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 6 }, p);
        agrees_with_composition(6, 9, AttentionMask::CausalAfterPrefix { prefix: 4, first_query: 3 }, p);
        agrees_with_composition(1, 1, AttentionMask::CausalAfterPrefix { prefix: 0, first_query: 0 }, p);
    }
}

#[test]
fn lengths_that_are_not_those_of_the_keys_are_refused() {
    let (none, ctx) = (Dropout::new("probs", 0.0).unwrap(), ForwardContext::inference());
    let [query, keys] = [var(0.1, (2, 3, 4)), var(0.2, (2, 5, 4))].map(|var| var.as_detached_tensor());
    let run = |lengths: &[usize]| {
        let lengths = KeyLengths::new(lengths);
        let mask = AttentionMask::Full;
        padded_attention([&query, &keys, &keys], 2, mask, Some(&lengths), &none, &ctx).map(|_| ())
    };
    assert!(run(&[5, 1]).is_ok());
    for wrong in [&[5][..], &[5, 0], &[6, 1], &[1, 1, 1]] {
        let error = run(wrong).unwrap_err().to_string();
        assert!(error.contains("key lengths: expected shape (2), each from 1 to 5"), "{error}");
    }
}

#[test]
fn dropout_of_a_longer_sequence_begins_like_that_of_a_shorter_one() {
    let dropout = Dropout::new("probs", 0.5).unwrap();
    let ctx = ForwardContext::training([7]);
    let first = |keys: usize| {
        let mask = dropout.mask(&[1, 2 << HEAD_BITS, keys], &ctx).unwrap().unwrap();
        let mut row = vec![1.0; keys];
        mask.apply_part((1 << HEAD_BITS) + 3, 0, &mut row);
        row
    };
    assert_eq!(first(9)[..6], first(6));
}
