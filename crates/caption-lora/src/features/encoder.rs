use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use caption_model::{CaptionCheckpoint, CaptionModel};
use rayon::prelude::*;
use train_ops::{ContentHash, ForwardContext};
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
    let weights = names.par_iter().map(|name| {
        let weight = tensors.tensor(name, DType::F32, &Device::Cpu)?;
        Ok(ContentHash::of_tensor(&weight)?)
    });
    let weights = weights.collect::<Result<Vec<u128>>>()?;
    let version = env!("CARGO_PKG_VERSION");
    let config = checkpoint.caption_config().vision_identity();
    let mut all = format!("{version} {dtype:?} {:?} {config} {names:?} {weights:?}", device.location());
    if storage != dtype {
        all += &format!(" {storage:?}");
    }
    Ok(XxHash3_128::oneshot(all.as_bytes()))
}
