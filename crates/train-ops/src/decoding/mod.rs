//! Decoding: sequences that grow token by token, their key-value cache, and attention over it.

mod cache;
mod rows;

use candle_core::{Device, Tensor};
use cpu_kernels::{
    Gathered, Isa, LANES, Panels, Strided, gathered_dots, gathered_sum, small_product, softmax,
};
use rayon::prelude::*;

pub use cache::KeyValueCache;
pub use rows::DecodingRows;

use self::cache::ImageKeys;
use crate::{AttentionMask, Dropout, Error, ForwardContext, Result, attention, host};

/// Attention of the newest tokens of each sequence, `query` of shape `(rows, new, heads * head_dim)`, over the tokens of its
/// image and its own tokens up to themselves: [`attention`] in inference, without a copy of the cache.
///
/// # Errors
/// If `query` has other tokens than the newest of `rows`, or `rows` refer to images or slots that the cache does not have. With a
/// cache that is not f32 in host memory, also if the sequences differ in length.
pub fn cached_attention(query: &Tensor, cache: &KeyValueCache, rows: &DecodingRows) -> Result<Tensor> {
    let (count, new, width) = query.dims3()?;
    let slots = cache.text[0].dim(0)?;
    if rows.used > slots || rows.rows.iter().any(|row| row.image >= cache.images) {
        return Err(Error::Shape {
            path: "cache of cached_attention".to_owned(),
            expected: format!("{} slots, and every image that a sequence refers to", rows.used),
            got: vec![slots, cache.images],
        });
    }
    if count != rows.len() || rows.lengths().any(|tokens| tokens < new) || width != cache.width {
        return Err(Error::Shape {
            path: "query of cached_attention".to_owned(),
            expected: format!("({}, as many as each sequence has at most, {})", rows.len(), cache.width),
            got: query.dims().to_vec(),
        });
    }
    match &cache.image {
        ImageKeys::Packed(image) => Ok(over_packed(host::isa()?, query, image, cache, rows)?),
        ImageKeys::Plain(image) => {
            let [key, value] = gather(image, &cache.text, rows)?;
            let first_query = cache.prefix + rows.tokens() - new;
            let mask = AttentionMask::CausalAfterPrefix { prefix: cache.prefix, first_query };
            let none = Dropout::new("", 0.0)?;
            attention(query, &key, &value, cache.heads, mask, &none, &ForwardContext::inference())
        }
    }
}

/// A new token: its number among the new tokens of all sequences, its image, and the slots of the text that it sees.
#[derive(Clone, Copy)]
struct Query<'a> {
    number: usize,
    image: usize,
    slots: &'a [usize],
}

fn over_packed(
    isa: Isa,
    query: &Tensor,
    image: &[[Panels; 2]],
    cache: &KeyValueCache,
    rows: &DecodingRows,
) -> candle_core::Result<Tensor> {
    let shape = query.dims3()?;
    let (new, width, heads) = (shape.1, shape.2, cache.heads);
    let (head_dim, prefix) = (width / heads, cache.prefix);
    let queries = rows.rows.iter().enumerate().flat_map(|(at, row)| {
        let past = row.slots.len() - new;
        (0..new).map(move |token| Query {
            number: at * new + token,
            image: row.image,
            slots: &row.slots[..=past + token],
        })
    });
    let mut queries: Vec<Query<'_>> = queries.collect();
    // Tokens of the same image read its keys and values together.
    queries.sort_by_key(|query| query.image);
    let query = query.contiguous()?;
    let views = [&query, &cache.text[0], &cache.text[1]].map(Tensor::storage_and_layout);
    let [query, text_keys, text_values] = &views;
    let query = host::values(query)?;
    let sorted: Vec<f32> =
        queries.iter().flat_map(|own| &query[own.number * width..][..width]).copied().collect();
    let text = [host::values(text_keys)?, host::values(text_values)?];
    let stride = (prefix + rows.tokens()).next_multiple_of(LANES);

    let mut tasks = Vec::new();
    let mut first = 0;
    for together in queries.chunk_by(|a, b| a.image == b.image) {
        tasks.extend((0..heads).map(|head| (first, together, head)));
        first += together.len();
    }
    let of_task = |scores: &mut Vec<f32>, &(first, together, head): &(usize, &[Query<'_>], usize)| {
        let [keys, values] = &image[together[0].image * heads + head];
        let column = head * head_dim;
        let query = &sorted[first * width + column..];
        scores.resize(together.len() * stride, 0.0);
        small_product(scores, stride, prefix, Strided::new(query, together.len(), width, head_dim), keys);
        let text = text.map(|values| Gathered::new(&values[column.min(values.len())..], width, head_dim));
        for ((scores, own), query) in scores.chunks_exact_mut(stride).zip(together).zip(query.chunks(width)) {
            gathered_dots(isa, &query[..head_dim], text[0], own.slots, &mut scores[prefix..]);
            softmax(isa, scores, prefix + own.slots.len());
        }
        let mut context = vec![0.0; together.len() * head_dim];
        let of_image = Strided::new(scores, together.len(), stride, prefix);
        small_product(&mut context, head_dim, head_dim, of_image, values);
        for ((context, own), scores) in
            context.chunks_exact_mut(head_dim).zip(together).zip(scores.chunks_exact(stride))
        {
            gathered_sum(isa, &scores[prefix..], text[1], own.slots, context);
        }
        context
    };
    let contexts: Vec<Vec<f32>> = tasks.par_iter().map_init(Vec::new, of_task).collect();
    let mut context = vec![0.0; queries.len() * width];
    for ((_, together, head), values) in tasks.iter().zip(&contexts) {
        for (own, values) in together.iter().zip(values.chunks_exact(head_dim)) {
            context[own.number * width + head * head_dim..][..head_dim].copy_from_slice(values);
        }
    }
    Tensor::from_vec(context, shape, &Device::Cpu)
}

/// Keys and values of all tokens of the sequences, `(rows, prefix + tokens, width)`.
fn gather(image: &[Tensor; 2], text: &[Tensor; 2], rows: &DecodingRows) -> Result<[Tensor; 2]> {
    if rows.lengths().any(|tokens| tokens != rows.tokens()) {
        return Err(Error::Shape {
            path: "sequences of a cache that is not f32 in host memory".to_owned(),
            expected: format!("{} tokens in each", rows.tokens()),
            got: rows.lengths().collect(),
        });
    }
    let device = image[0].device();
    let images: Vec<u32> = rows.rows.iter().map(|row| row.image as u32).collect();
    let slots: Vec<u32> = rows.rows.iter().flat_map(|row| &row.slots).map(|slot| *slot as u32).collect();
    let (images, slots) = (Tensor::new(images, device)?, Tensor::new(slots, device)?);
    let gather = |image: &Tensor, text: &Tensor| {
        let text = text.index_select(&slots, 0)?.reshape((rows.len(), rows.tokens(), ()))?;
        Tensor::cat(&[&image.index_select(&images, 0)?, &text], 1)
    };
    Ok([gather(&image[0], &text[0])?, gather(&image[1], &text[1])?])
}

#[cfg(test)]
mod tests {
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
                let got = cached_attention(&of(5), &cache, &rows).unwrap();

                let [key, value] = gather(&image, &cache.text, &rows).unwrap();
                assert_eq!(key.dims(), [rows.len(), prefix + rows.tokens(), width]);
                let first_query = prefix + rows.tokens() - new;
                let mask = AttentionMask::CausalAfterPrefix { prefix, first_query };
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
}
