//! Attention of decoding.

use candle_core::{DType, Device, Tensor};
use train_ops::{
    DecodingRows, KeyValueCache, cached_attention, cached_cross_attention, cached_self_attention,
};

use crate::common::{gpu, list, values};

type Kind = fn(&Tensor, &KeyValueCache, &DecodingRows) -> train_ops::Result<Tensor>;

#[derive(Clone, Copy, Debug)]
struct Sizes {
    head_dim: usize,
    image_tokens: usize,
    /// Tokens of the first step.
    prompt: usize,
}

const HEADS: usize = 2;

/// The contexts of three steps of two beams of each of two pictures, which fork, and swap, over keys in slots.
fn contexts(kind: Kind, sizes: Sizes, dtype: DType, device: &Device) -> Vec<f64> {
    let width = HEADS * sizes.head_dim;
    let tensor =
        |seed: u64, shape: &[usize]| values(seed, shape).to_dtype(dtype).unwrap().to_device(device).unwrap();
    let image = [1, 2].map(|seed| tensor(seed, &[2, sizes.image_tokens, width]));
    let cache = KeyValueCache::new(&image[0], &image[1], HEADS, 2 * sizes.prompt + 12).unwrap();
    let mut rows = DecodingRows::new(2);
    let mut contexts = Vec::new();
    let steps = [(vec![0, 1], sizes.prompt), (vec![0, 0, 1, 1], 1), (vec![1, 0, 2, 2], 1)];
    for (step, (parents, new)) in steps.into_iter().enumerate() {
        rows.reorder(&parents).unwrap();
        rows.extend(new);
        let tokens = |seed: u64| tensor(10 * step as u64 + seed, &[parents.len(), new, width]);
        cache.write(&tokens(3), &tokens(4), &rows).unwrap();
        contexts.extend(list(&kind(&tokens(5), &cache, &rows).unwrap()));
    }
    contexts
}

fn check_decoding(sizes: Sizes) {
    let kinds: [Kind; 3] = [cached_attention, cached_self_attention, cached_cross_attention];
    for kind in kinds {
        let expected = contexts(kind, sizes, DType::F32, &Device::Cpu);
        for (dtype, bound) in [(DType::F32, 1e-6), (DType::BF16, 1e-2)] {
            let found = contexts(kind, sizes, dtype, gpu());
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < bound, "{sizes:?}, {dtype:?}: {found}, {expected}");
            }
        }
    }
}

#[test]
fn attention_of_decoding_over_image_text_and_both() {
    check_decoding(Sizes { head_dim: 16, image_tokens: 5, prompt: 2 });
}

/// A block has 32 keys at a time, of the image and of the text; heads of up to 32 and up to 64 features have a kernel each, which reads
/// 16 bytes or one element at a time.
#[test]
fn attention_of_decoding_over_more_keys_than_a_block_has_at_a_time() {
    for head_dim in [13, 32, 33, 64] {
        check_decoding(Sizes { head_dim, image_tokens: 70, prompt: 37 });
    }
}

/// Candle's operations compute heads that no kernel has.
#[test]
fn attention_of_decoding_with_heads_of_more_than_64_features() {
    check_decoding(Sizes { head_dim: 72, image_tokens: 5, prompt: 2 });
}
