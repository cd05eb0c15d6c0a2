use anyhow::Result;
use candle_core::{DType, Device, Storage, Tensor};
use caption_model::{CaptionCheckpoint, CaptionModel};
use rayon::prelude::*;
use train_ops::ForwardContext;
use twox_hash::XxHash3_128;

/// Image features, without a graph: `(pictures, tokens, vision_hidden)`.
///
/// # Errors
/// If the encoder was released, or the pictures do not have the size that it takes.
pub fn encode(model: &dyn CaptionModel, pixel_values: &Tensor) -> Result<Tensor> {
    Ok(model.encode_images(pixel_values, &ForwardContext::inference())?.detach())
}

/// A hash of everything that features depend on besides the picture: the encoder's weights and configuration,
/// the type `dtype` that it computes with and that of their `storage`, and the version of this code.
///
/// The text decoder is not included: checkpoints that share a frozen encoder share features.
///
/// # Errors
/// If a tensor cannot be read.
pub fn encoder_fingerprint(
    checkpoint: &dyn CaptionCheckpoint,
    dtype: DType,
    storage: DType,
    device: &Device,
) -> Result<u128> {
    let (tensors, vision) = (checkpoint.tensors(), checkpoint.architecture().vision_prefix);
    let names: Vec<&String> =
        tensors.schema().shapes().keys().filter(|name| name.starts_with(vision)).collect();
    // One tensor at a time on each thread, to limit memory.
    let weights = names.par_iter().map(|name| Ok(hash(&tensors.tensor(name, DType::F32, &Device::Cpu)?)?));
    let weights = weights.collect::<Result<Vec<u128>>>()?;
    let version = env!("CARGO_PKG_VERSION");
    let config = checkpoint.caption_config().vision_identity();
    let mut all = format!("{version} {dtype:?} {:?} {config} {names:?} {weights:?}", device.location());
    if storage != dtype {
        all += &format!(" {storage:?}");
    }
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
