use candle_core::Device;

use super::*;
use crate::sample_key;

fn values(seed: u64, shape: (usize, usize, usize)) -> Tensor {
    let count = (shape.0 * shape.1 * shape.2) as u64;
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 22) as f32 - 2.0;
    Tensor::from_vec((0..count).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A prompt of two tokens, then beams that fork, swap and end; the newest tokens' attention is that over gathered
/// copies of all keys and values.
#[test]
fn it_is_attention_over_the_tokens_of_each_sequence() {
    let (heads, width) = (3, 3 * 20);
    for prefix in [7, 0] {
        let image = [1, 2].map(|seed| values(seed, (2, prefix, width)));
        let cache = KeyValueCache::new(&image[0], &image[1], heads, 20).unwrap();
        let mut rows = DecodingRows::new(2);
        for (step, parents) in
            [(0, None), (1, Some(vec![0, 0, 1, 1])), (2, Some(vec![1, 0, 3, 3])), (3, Some(vec![2, 3]))]
        {
            if let Some(parents) = parents {
                rows.reorder(&parents).unwrap();
            }
            let new = if step == 0 { 2 } else { 1 };
            rows.extend(new);
            let of = |seed: u64| values(10 * step + seed, (rows.len(), new, width));
            cache.write(&of(3), &of(4), &rows).unwrap();
            let causal = |prefix: usize| AttentionMask::CausalAfterPrefix {
                prefix,
                first_query: prefix + rows.tokens() - new,
            };
            for (seen, mask) in
                [(Seen::All, causal(prefix)), (Seen::Text, causal(0)), (Seen::Image, AttentionMask::Full)]
            {
                if seen == Seen::Image && prefix == 0 {
                    continue;
                }
                let got = attention_over(seen, &of(5), &cache, &rows).unwrap();
                let [key, value] = gather(seen, &image, &cache.text, &rows).unwrap();
                let tokens = [prefix + rows.tokens(), rows.tokens(), prefix][seen as usize];
                assert_eq!(key.dims(), [rows.len(), tokens, width]);
                let none = Dropout::new("", 0.0).unwrap();
                let expected =
                    attention(&of(5), &key, &value, heads, mask, &none, &ForwardContext::inference())
                        .unwrap();
                for (got, expected) in list(&got).iter().zip(list(&expected)) {
                    assert!((got - expected).abs() < 1e-6, "step {step}: {got}, not {expected}");
                }
            }
        }
    }
}

/// Beams over two images, step by step and then all steps as rows of one.
#[test]
fn steps_that_are_read_at_once_give_the_same_bits_as_one_by_one() {
    let (prefix, heads, width) = (37, 3, 3 * 20);
    let image = [1, 2].map(|seed| values(seed, (2, prefix, width)));
    let cache = || KeyValueCache::new(&image[0], &image[1], heads, 20).unwrap();
    let (alone, together) = (cache(), cache());
    let (mut rows, mut steps, mut expected) = (DecodingRows::new(2), Vec::new(), Vec::new());
    let of = |seed: u64, rows: &DecodingRows| values(seed, (rows.len(), 1, width));
    let mut inputs = [Vec::new(), Vec::new(), Vec::new()];
    for (step, parents) in [vec![0, 0, 1, 1], vec![1, 0, 3, 3], vec![2, 0]].iter().enumerate() {
        rows.reorder(parents).unwrap();
        rows.extend(1);
        let [key, value, query] = [3, 4, 5].map(|seed| of(10 * step as u64 + seed, &rows));
        alone.write(&key, &value, &rows).unwrap();
        expected.extend(list(&cached_attention(&query, &alone, &rows).unwrap()));
        steps.push(rows.clone());
        inputs.iter_mut().zip([key, value, query]).for_each(|(all, input)| all.push(input));
    }
    let [key, value, query] = inputs.map(|all| Tensor::cat(&all, 0).unwrap());
    let joined = DecodingRows::join(&steps);
    together.write(&key, &value, &joined).unwrap();
    assert_eq!(list(&cached_attention(&query, &together, &joined).unwrap()), expected);
}

#[test]
fn a_sequence_keeps_its_tokens_when_others_take_its_row() {
    let mut rows = DecodingRows::new(1);
    rows.extend(1);
    rows.reorder(&[0, 0]).unwrap();
    rows.extend(1);
    rows.reorder(&[1, 0]).unwrap();
    rows.extend(1);
    assert_eq!(rows.rows[0].slots, [0, 2, 3]);
    assert_eq!(rows.rows[1].slots, [0, 1, 4]);
}

#[test]
fn a_parent_that_does_not_exist_is_an_error_and_changes_nothing() {
    let mut rows = DecodingRows::new(2);
    rows.extend(1);
    for parents in [vec![2], vec![0, 1, 2], vec![usize::MAX]] {
        let error = rows.reorder(&parents).unwrap_err().to_string();
        assert!(error.contains("2 are being decoded"), "{error}");
    }
    assert_eq!(rows.rows.iter().map(|row| row.slots.clone()).collect::<Vec<_>>(), [[0], [1]]);
    assert!(DecodingRows::new(0).reorder(&[0]).is_err());
}

#[test]
fn a_query_of_another_shape_is_refused() {
    let cache = KeyValueCache::new(&values(1, (1, 3, 8)), &values(2, (1, 3, 8)), 2, 4).unwrap();
    let mut rows = DecodingRows::new(1);
    rows.extend(1);
    for shape in [(2, 1, 8), (1, 2, 8), (1, 1, 6)] {
        assert!(cached_attention(&values(3, shape), &cache, &rows).is_err(), "{shape:?}");
    }
    let keys = values(1, (1, 3, 8));
    assert!(KeyValueCache::new(&keys, &keys, 3, 4).is_err(), "3 heads of 8");
    let two_images = DecodingRows::new(2);
    assert!(cached_attention(&values(3, (2, 0, 8)), &cache, &two_images).is_err(), "an image too many");
    rows.extend(4);
    assert!(cached_attention(&values(3, (1, 1, 8)), &cache, &rows).is_err(), "5 tokens, 4 slots");
}

#[test]
fn only_tokens_of_all_sequences_are_written() {
    let cache = KeyValueCache::new(&values(1, (3, 3, 8)), &values(2, (3, 3, 8)), 2, 12).unwrap();
    let mut rows = DecodingRows::new(3);
    rows.extend(1);
    for shape in [(2, 1, 8), (3, 2, 8), (4, 1, 8)] {
        let error = cache.write(&values(3, shape), &values(4, shape), &rows).unwrap_err().to_string();
        assert!(error.contains("new tokens of a cache"), "{shape:?}: {error}");
    }
    assert!(cache.write(&values(3, (3, 1, 8)), &values(4, (3, 1, 8)), &rows).is_ok());
}
