use cuda_kernels::emulation::Emulator;
use cuda_kernels::{CacheWrite, DecodingAttention, Element};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, agrees, exact, in_all_orders, ok, run, tolerance, uniform};

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    head_dim: usize,
    /// 0: the image is not seen.
    image_tokens: usize,
    new_tokens: usize,
    sees_text: bool,
}

/// Sequences of different lengths over two images, with slots in no order.
pub(crate) fn decoding_attention(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (heads, head_dim, image_tokens, new_tokens, sees_text) in [
            (3, 64, 37, 1, true),
            (2, 20, 0, 2, true),
            (1, 13, 21, 3, true),
            (2, 64, 50, 1, false),
            (1, 32, 1, 1, true),
        ] {
            let case = Case { heads, head_dim, image_tokens, new_tokens, sees_text };
            one(emulator, element, case).map_err(|error| format!("{element:?} {case:?}: {error}"))?;
        }
    }
    Ok(())
}

fn one(emulator: &Emulator, element: Element, case: Case) -> Outcome {
    let (rows, most, slots) = (3, 9, 17);
    let width = case.heads * case.head_dim;
    let (images, lengths) = ([1u32, 0, 1], [3u32, 9, 5]);
    let slot = |row: usize, token: usize| (row * 5 + token * 3) % slots;
    let table: Vec<u32> = (0..rows * most).map(|i| slot(i / most, i % most) as u32).collect();
    let mut q = uniform(element, 1, rows * case.new_tokens * width);
    q.iter_mut().for_each(|q| *q *= 4.0);
    let image = [2, 3].map(|seed| uniform(element, seed, 2 * case.image_tokens * width));
    let text = [4, 5].map(|seed| uniform(element, seed, slots * width));
    let query = Memory::of(element, &q);
    let (image_memory, text_memory) = (
        image.each_ref().map(|values| Memory::of(element, values)),
        text.each_ref().map(|values| Memory::of(element, values)),
    );
    let [of_images, of_lengths, of_slots] = [&images[..], &lengths[..], &table[..]].map(Memory::of_u32);
    let results = in_all_orders(|seed| {
        let context = Memory::unwritten_elements(element, q.len());
        let attention = DecodingAttention {
            query: query.pointer(),
            image: image_memory.each_ref().map(Memory::pointer),
            text: text_memory.each_ref().map(Memory::pointer),
            context: context.pointer(),
            images: of_images.pointer(),
            lengths: of_lengths.pointer(),
            slots: of_slots.pointer(),
            rows,
            new_tokens: case.new_tokens,
            heads: case.heads,
            head_dim: case.head_dim,
            image_tokens: case.image_tokens,
            most_tokens: if case.sees_text { most } else { 0 },
        };
        run(emulator, &[ok(attention.launch(element))?], seed)?;
        Ok(vec![context.values(element)?])
    })?;

    let mut contexts = Vec::new();
    for (query, q) in exact(&q).chunks(width).enumerate() {
        let (row, token) = (query / case.new_tokens, query % case.new_tokens);
        let mut tokens: Vec<[&[f32]; 2]> = (0..case.image_tokens)
            .map(|token| images[row] as usize * case.image_tokens + token)
            .map(|at| [0, 1].map(|i| &image[i][at * width..][..width]))
            .collect();
        if case.sees_text {
            let seen = lengths[row] as usize - case.new_tokens + token + 1;
            tokens
                .extend((0..seen).map(|token| [0, 1].map(|i| &text[i][slot(row, token) * width..][..width])));
        }
        for head in 0..case.heads {
            let part = head * case.head_dim..(head + 1) * case.head_dim;
            let scores: Vec<f64> = tokens
                .iter()
                .map(|[key, _]| {
                    let dot: f64 =
                        q[part.clone()].iter().zip(&key[part.clone()]).map(|(q, k)| q * f64::from(*k)).sum();
                    dot / (case.head_dim as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            contexts.extend(part.map(|i| {
                let values = tokens.iter().zip(&weights);
                values.map(|([_, value], weight)| weight * f64::from(value[i])).sum::<f64>() / sum
            }));
        }
    }
    agrees("context", &results[0], &contexts, tolerance(element, 3e-6, 5e-3))
}

/// Sequences of different lengths whose slots are in no order, with rows of the table that are longer than any sequence. All other
/// slots stay as they were.
pub(crate) fn cache_write(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (width, new_tokens) in [(64, 1), (20, 2), (7, 3), (1096, 1)] {
            written(emulator, element, width, new_tokens)
                .map_err(|error| format!("{element:?}, {new_tokens} of width {width}: {error}"))?;
        }
    }
    Ok(())
}

fn written(emulator: &Emulator, element: Element, width: usize, new_tokens: usize) -> Outcome {
    let (rows, most, slots) = (3, 10, 31);
    let lengths = [3u32, 9, 5];
    // 30 different ones.
    let slot = |row: usize, token: usize| (row * 10 + token) * 7 % slots;
    let table: Vec<u32> = (0..rows * most).map(|i| slot(i / most, i % most) as u32).collect();
    let [of_lengths, of_slots] = [&lengths[..], &table[..]].map(Memory::of_u32);
    let tokens = [1, 2].map(|seed| uniform(element, seed, rows * new_tokens * width));
    let before = [3, 4].map(|seed| uniform(element, seed, slots * width));
    let token_memory = tokens.each_ref().map(|values| Memory::of(element, values));
    let results = in_all_orders(|seed| {
        let cache = before.each_ref().map(|values| Memory::of(element, values));
        let write = CacheWrite {
            tokens: token_memory.each_ref().map(Memory::pointer),
            cache: cache.each_ref().map(Memory::pointer),
            lengths: of_lengths.pointer(),
            slots: of_slots.pointer(),
            rows,
            new_tokens,
            width,
            most_tokens: most,
        };
        run(emulator, &[ok(write.launch(element))?], seed)?;
        cache.iter().map(|memory| memory.values(element)).collect()
    })?;

    for ((name, found), (mut expected, tokens)) in
        ["keys", "values"].iter().zip(&results).zip(before.into_iter().zip(&tokens))
    {
        for (index, token) in tokens.chunks(width).enumerate() {
            let (row, token_of_row) = (index / new_tokens, index % new_tokens);
            let at = slot(row, lengths[row] as usize - new_tokens + token_of_row) * width;
            expected[at..][..width].copy_from_slice(token);
        }
        agrees(name, found, &exact(&expected), 0.0)?;
    }
    Ok(())
}
