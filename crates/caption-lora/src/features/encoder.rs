use anyhow::Result;
use candle_core::{DType, Device, Storage, Tensor};
use git_model::{Checkpoint, GitForCausalLm};
use rayon::prelude::*;
use train_ops::ForwardContext;
use twox_hash::XxHash3_128;

/// Prefix of the names of the vision encoder's tensors.
const VISION: &str = "git.image_encoder.";

/// Image features, without a graph: `(pictures, tokens, vision_hidden)`.
///
/// # Errors
/// If the encoder was released, or the pictures do not have the size that it takes.
pub fn encode(model: &GitForCausalLm, pixel_values: &Tensor) -> Result<Tensor> {
    Ok(model.encode_images(pixel_values, &ForwardContext::inference())?.detach())
}

/// A hash of everything that features depend on besides the picture: the encoder's weights and configuration,
/// the type that it computes with, and the version of this code.
///
/// The text decoder is not included: checkpoints that share a frozen encoder share features.
///
/// # Errors
/// If a tensor cannot be read.
pub fn encoder_fingerprint(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<u128> {
    let names: Vec<String> =
        checkpoint.config().tensor_shapes().into_keys().filter(|name| name.starts_with(VISION)).collect();
    // One tensor at a time on each thread, to limit memory.
    let weights =
        names.par_iter().map(|name| Ok(hash(&checkpoint.tensor(name, DType::F32, &Device::Cpu)?)?));
    let weights = weights.collect::<Result<Vec<u128>>>()?;
    let version = env!("CARGO_PKG_VERSION");
    let config = &checkpoint.config().vision_config;
    let all = format!("{version} {dtype:?} {:?} {config:?} {names:?} {weights:?}", device.location());
    Ok(XxHash3_128::oneshot(all.as_bytes()))
}

/// A hash of the numbers of a tensor in f32 on the processor.
fn hash(tensor: &Tensor) -> candle_core::Result<u128> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("weights are read to the processor") };
    let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..tensor.elem_count()];
    let mut hasher = XxHash3_128::new();
    // Block by block: copying all of it would take longer than the hash.
    let mut bytes = [0; 4096];
    for block in values.chunks(bytes.len() / 4) {
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(block) {
            *bytes = value.to_le_bytes();
        }
        hasher.write(&bytes[..4 * block.len()]);
    }
    Ok(hasher.finish_128())
}
