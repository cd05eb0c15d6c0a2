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
#[cfg(feature = "fused-cuda")]
pub(crate) use rows::RowTable;

use self::cache::ImageKeys;
use crate::{AttentionMask, Dropout, Error, ForwardContext, Result, attention, cuda, host};

/// Attention of the newest tokens of each sequence, `query` of shape `(rows, new, heads * head_dim)`, over the
/// tokens of the sequence's image and its own tokens up to the query. The result has the shape of `query`. This
/// is [`attention`] in inference, without a copy of the cache.
///
/// # Errors
/// If `query` has other tokens than the newest of `rows`, or `rows` refer to images or slots that the cache does not have. On
/// devices without a kernel, also if the sequences differ in length.
pub fn cached_attention(query: &Tensor, cache: &KeyValueCache, rows: &DecodingRows) -> Result<Tensor> {
    attention_over(Seen::All, query, cache, rows)
}

/// As [`cached_attention`], over the sequence's own tokens only: the causal self-attention of a decoder that
/// reads images by cross-attention.
///
/// # Errors
/// As [`cached_attention`].
pub fn cached_self_attention(query: &Tensor, cache: &KeyValueCache, rows: &DecodingRows) -> Result<Tensor> {
    attention_over(Seen::Text, query, cache, rows)
}

/// As [`cached_attention`], over the tokens of the image only: cross-attention.
///
/// # Errors
/// As [`cached_attention`].
pub fn cached_cross_attention(query: &Tensor, cache: &KeyValueCache, rows: &DecodingRows) -> Result<Tensor> {
    attention_over(Seen::Image, query, cache, rows)
}

/// The tokens that a query sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The image's, then the sequence's own.
    All,
    Text,
    Image,
}

fn attention_over(seen: Seen, query: &Tensor, cache: &KeyValueCache, rows: &DecodingRows) -> Result<Tensor> {
    let (count, new, width) = query.dims3()?;
    cache.check(rows)?;
    if count != rows.len() || rows.lengths().any(|tokens| tokens < new) || width != cache.width {
        return Err(Error::Shape {
            path: "query of cached_attention".to_owned(),
            expected: format!("({}, as many as each sequence has at most, {})", rows.len(), cache.width),
            got: query.dims().to_vec(),
        });
    }
    match &cache.image {
        ImageKeys::Packed(image) => Ok(over_packed(host::isa()?, seen, query, image, cache, rows)?),
        ImageKeys::Plain(image) => {
            if let Some(context) =
                cuda::decoding_attention(seen, query, image, &cache.text, cache.heads, rows)?
            {
                return Ok(context);
            }
            rows.on_host("attention over a cache", query)?;
            let [key, value] = gather(seen, image, &cache.text, rows)?;
            let prefix = if seen == Seen::Text { 0 } else { cache.prefix };
            let mask = match seen {
                Seen::Image => AttentionMask::Full,
                _ => AttentionMask::CausalAfterPrefix { prefix, first_query: prefix + rows.tokens() - new },
            };
            let none = Dropout::new("", 0.0)?;
            attention(query, &key, &value, cache.heads, mask, &none, &ForwardContext::inference())
        }
    }
}

/// A new token: its index among the new tokens of all sequences, its image, and the slots of the text that it
/// sees.
#[derive(Clone, Copy)]
struct Query<'a> {
    number: usize,
    image: usize,
    slots: &'a [usize],
}

fn over_packed(
    isa: Isa,
    seen: Seen,
    query: &Tensor,
    image: &[[Panels; 2]],
    cache: &KeyValueCache,
    rows: &DecodingRows,
) -> candle_core::Result<Tensor> {
    let shape = query.dims3()?;
    let (new, width, heads) = (shape.1, shape.2, cache.heads);
    let head_dim = width / heads;
    let prefix = if seen == Seen::Text { 0 } else { cache.prefix };
    let queries = rows.rows.iter().enumerate().flat_map(|(at, row)| {
        let past = row.slots.len() - new;
        (0..new).map(move |token| Query {
            number: at * new + token,
            image: row.image,
            slots: if seen == Seen::Image { &[] } else { &row.slots[..=past + token] },
        })
    });
    let mut queries: Vec<Query<'_>> = queries.collect();
    // All queries of an image read its keys and values together.
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

/// Keys and values of the tokens that the sequences see, `(rows, prefix + tokens, width)` if those are all of them.
fn gather(seen: Seen, image: &[Tensor; 2], text: &[Tensor; 2], rows: &DecodingRows) -> Result<[Tensor; 2]> {
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
        let of_image = || image.index_select(&images, 0);
        let of_text = || text.index_select(&slots, 0)?.reshape((rows.len(), rows.tokens(), ()));
        match seen {
            Seen::All => Tensor::cat(&[&of_image()?, &of_text()?], 1),
            Seen::Text => of_text(),
            Seen::Image => of_image(),
        }
    };
    Ok([gather(&image[0], &text[0])?, gather(&image[1], &text[1])?])
}

#[cfg(test)]
mod tests;
