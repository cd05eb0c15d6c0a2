use candle_core::{Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{CacheWrite, DecodingAttention, Pointer};

use super::activations::MOST_HEAD_DIM;
use crate::decoding::{DecodingRows, RowTable, Seen};

/// Attention of the newest tokens of each sequence, over a cache whose keys and values stay where they are. `query` is
/// `(rows, new, width)`, `image` `(images, tokens, width)`, `text` `(slots, width)`; the caller checked that they fit.
pub(crate) fn decoding_attention(
    seen: Seen,
    query: &Tensor,
    image: &[Tensor; 2],
    text: &[Tensor; 2],
    heads: usize,
    rows: &DecodingRows,
) -> Result<Option<Tensor>> {
    let (count, new_tokens, width) = query.dims3()?;
    let image_tokens = if seen == Seen::Text { 0 } else { image[0].dim(1)? };
    let text_tokens = if seen == Seen::Image { 0 } else { rows.tokens() };
    let Some(kernels) = Kernels::of(query) else { return Ok(None) };
    let served = image.iter().chain(text).all(|tensor| kernels.serve(tensor));
    let nothing = count * new_tokens == 0 || image_tokens + text_tokens == 0;
    if query.track_op() || !served || nothing || width / heads > MOST_HEAD_DIM {
        return Ok(None);
    }
    let query = query.contiguous()?;
    let table = on_device(&kernels, rows)?;
    let most_tokens = if seen == Seen::Image { 0 } else { table.columns };
    let mut context = kernels.activations(query.elem_count())?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let [images, lengths, slots] = parts(inputs[5], count);
        let attention = DecodingAttention {
            query: inputs[0],
            image: [inputs[1], inputs[2]],
            text: [inputs[3], inputs[4]],
            context: outputs[0],
            images,
            lengths,
            slots,
            rows: count,
            new_tokens,
            heads,
            head_dim: width / heads,
            image_tokens,
            most_tokens,
        };
        Ok(vec![attention.launch(kernels.element())?])
    };
    let inputs = [&query, &image[0], &image[1], &text[0], &text[1], &table.numbers];
    // SAFETY: the tables have an image, a length and slots for each row, which the cache has.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [&mut context], launches) }?;
    Ok(Some(Kernels::tensor(context, query.shape())))
}

/// Writes the newest tokens' keys and values, `(rows, new, width)`, to their slots of `text` `(slots, width)`; the caller checked
/// that they fit. Returns whether there is a kernel for it.
pub(crate) fn cache_write(
    [key, value]: [&Tensor; 2],
    text: &[Tensor; 2],
    rows: &DecodingRows,
) -> Result<bool> {
    let (count, new_tokens, width) = key.dims3()?;
    let Some(kernels) = Kernels::of(key) else { return Ok(false) };
    let (key, value) = (key.contiguous()?, value.contiguous()?);
    let tensors = [&key, &value, &text[0], &text[1]];
    if count * new_tokens == 0 || !tensors.iter().all(|tensor| kernels.serve(tensor)) {
        return Ok(false);
    }
    let table = on_device(&kernels, rows)?;
    let launches = |inputs: &[Pointer], _: &[Pointer]| {
        let [_, lengths, slots] = parts(inputs[4], count);
        let write = CacheWrite {
            tokens: [inputs[0], inputs[1]],
            cache: [inputs[2], inputs[3]],
            lengths,
            slots,
            rows: count,
            new_tokens,
            width,
            most_tokens: table.columns,
        };
        Ok(vec![write.launch(kernels.element())?])
    };
    let inputs = [&tensors[..], &[&table.numbers]].concat();
    // SAFETY: the table has a length and slots for each row, which the cache has and which nothing else uses.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [], launches) }?;
    Ok(true)
}

/// Images, lengths and slots of [`DecodingRows::numbers`] at this address.
fn parts(numbers: Pointer, rows: usize) -> [Pointer; 3] {
    [0, rows, 2 * rows].map(|first| Pointer(numbers.0 + (first * size_of::<u32>()) as u64))
}

/// The numbers of the rows on the device.
fn on_device(kernels: &Kernels, rows: &DecodingRows) -> Result<RowTable> {
    if let Some(table) = rows.on_device.get().filter(|table| kernels.is_on_device(&table.numbers)) {
        return Ok(table.clone());
    }
    let columns = rows.tokens();
    let table = RowTable { numbers: kernels.numbers(&rows.numbers(columns))?, columns, given: false };
    // Another thread may have been first, with the same numbers.
    let _ = rows.on_device.set(table.clone());
    Ok(table)
}
