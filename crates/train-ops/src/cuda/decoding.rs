use candle_core::{Result, Tensor};
use cuda_kernels::device::Kernels;
use cuda_kernels::{DecodingAttention, Pointer};

use super::activations::MOST_HEAD_DIM;
use crate::decoding::{DecodingRows, Seen};

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
    let most_tokens = if seen == Seen::Image { 0 } else { rows.tokens() };
    let Some(kernels) = Kernels::of(query) else { return Ok(None) };
    let served = image.iter().chain(text).all(|tensor| kernels.serve(tensor));
    let nothing = count * new_tokens == 0 || image_tokens + most_tokens == 0;
    if query.track_op() || !served || nothing || width / heads > MOST_HEAD_DIM {
        return Ok(None);
    }
    let query = query.contiguous()?;
    let tables = on_device(&kernels, rows)?;
    let mut context = kernels.activations(query.elem_count())?;
    let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
        let table = |first: usize| Pointer(inputs[5].0 + (first * size_of::<u32>()) as u64);
        let attention = DecodingAttention {
            query: inputs[0],
            image: [inputs[1], inputs[2]],
            text: [inputs[3], inputs[4]],
            context: outputs[0],
            images: table(0),
            lengths: table(count),
            slots: table(2 * count),
            rows: count,
            new_tokens,
            heads,
            head_dim: width / heads,
            image_tokens,
            most_tokens,
        };
        Ok(vec![attention.launch(kernels.element())?])
    };
    let inputs = [&query, &image[0], &image[1], &text[0], &text[1], &tables];
    // SAFETY: the tables have an image, a length and slots for each row, which the cache has.
    #[allow(unsafe_code)]
    unsafe { kernels.run(&inputs, &mut [&mut context], launches) }?;
    Ok(Some(Kernels::tensor(context, query.shape())))
}

/// The tables of the rows on the device.
fn on_device(kernels: &Kernels, rows: &DecodingRows) -> Result<Tensor> {
    if let Some(tables) = rows.on_device.get().filter(|tables| kernels.is_on_device(tables)) {
        return Ok(tables.clone());
    }
    let tables = kernels.numbers(&tables(rows))?;
    // Another thread may have been first, with the same numbers.
    let _ = rows.on_device.set(tables.clone());
    Ok(tables)
}

/// The image of each row, then its number of text tokens, then their slots, as many for each row as the longest has.
fn tables(rows: &DecodingRows) -> Vec<u32> {
    let most = rows.tokens();
    let images = rows.images().map(|image| image as u32);
    let lengths = rows.lengths().map(|length| length as u32);
    let slots = rows.rows.iter().flat_map(|row| {
        let slots = row.slots.iter().map(|slot| *slot as u32);
        slots.chain(std::iter::repeat_n(0, most - row.slots.len()))
    });
    images.chain(lengths).chain(slots).collect()
}
