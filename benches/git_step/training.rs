//! A model with adapters and a batch, of which each part of a training step can be timed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use git_model::{CaptionModel as _, Checkpoint, GitConfig, GitForCausalLm, LoadOptions};
use peft_lora::{BaseType, LoraBuilder};
use train_ops::{ForwardContext, sample_key};
use trainer_core::{AdamW, ClippedStep, Gradients, Optimizer, Parameters, TrainingArguments};

use crate::{Result, common};

/// Tokens per caption, including start and end.
pub(crate) const TOKENS: usize = 16;
/// Batch size.
pub(crate) const BATCH: usize = 2;

/// The part of a training step that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    VisionForward,
    DecoderForward,
    DecoderBackward,
    /// Both passes of the decoder.
    Passes,
    Optimizer,
    WholeStep,
}

impl Part {
    pub(crate) const ALL: [Self; 6] = [
        Self::VisionForward,
        Self::DecoderForward,
        Self::DecoderBackward,
        Self::Passes,
        Self::Optimizer,
        Self::WholeStep,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VisionForward => "vision forward",
            Self::DecoderForward => "decoder forward",
            Self::DecoderBackward => "decoder backward",
            Self::Passes => "forward + backward",
            Self::Optimizer => "optimizer",
            Self::WholeStep => "whole step",
        }
    }
}

/// The gradients of all adapters' matrices, by name.
pub(crate) type AdapterGradients = BTreeMap<String, Vec<f32>>;

/// A model with one type of weights, in training.
pub(crate) struct Training {
    pub(crate) base: BaseType,
    model: GitForCausalLm,
    adapters: BTreeMap<String, Var>,
    parameters: Parameters,
    optimizer: AdamW,
    pixels: Tensor,
    features: Tensor,
    input_ids: Tensor,
    labels: Vec<Vec<i64>>,
    ctx: ForwardContext,
}

impl Training {
    /// The model of a checkpoint's folder with a trained adapter, or with a new one of the recipe.
    pub(crate) fn open(dir: &Path, adapter: Option<&Path>, base: BaseType, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(dir)?;
        let builder = match adapter {
            Some(adapter) => LoraBuilder::from_pretrained(adapter)?,
            None => LoraBuilder::new(common::lora_config())?,
        };
        let mut builder = builder.base(base);
        let dtype = if base == BaseType::Bf16 { DType::BF16 } else { DType::F32 };
        let options = LoadOptions { device: device.clone(), dtype, ..LoadOptions::default() };
        let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options)?;
        let adapters = builder.finish()?.parameters();
        // A new B would be zero, and so would the gradient of A.
        let new = adapters.iter().filter(|(name, _)| adapter.is_none() && name.contains("lora_B"));
        for (seed, (_, b)) in new.enumerate() {
            b.set(&(common::values(100 + seed as u64, b.shape().clone(), device) * 0.02)?)?;
        }
        let parameters = Parameters::new(adapters.clone())?;
        let optimizer = AdamW::new(&TrainingArguments::default(), &parameters)?;

        let size = model.config().vision_config.image_size;
        let pixels = common::values(1, (BATCH, 3, size, size), device);
        let features = model.encode_images(&pixels, &ForwardContext::inference())?.detach();
        let rows = captions(model.config().vocab_size as u64);
        let labels = rows.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect();
        let input_ids = Tensor::new(rows, device)?;
        let keys: Vec<_> = (0..BATCH as u64).map(|row| sample_key(1, 0, row)).collect();
        let ctx = ForwardContext::training(keys);
        Ok(Self { base, model, adapters, parameters, optimizer, pixels, features, input_ids, labels, ctx })
    }

    pub(crate) fn config(&self) -> &GitConfig {
        self.model.config()
    }

    /// The gradients of the first step.
    pub(crate) fn gradients(&self) -> Result<AdapterGradients> {
        let store = self.loss()?.backward()?;
        let gradient = |(name, parameter): (&String, &Var)| -> Result<(String, Vec<f32>)> {
            let gradient = store.get(parameter.as_tensor()).expect("a gradient for every adapter");
            Ok((name.clone(), gradient.flatten_all()?.to_vec1()?))
        };
        self.adapters.iter().map(gradient).collect()
    }

    /// The seconds that a part takes, including the device's work.
    pub(crate) fn seconds(&mut self, part: Part) -> Result<f64> {
        let device = self.pixels.device().clone();
        match part {
            Part::VisionForward => {
                timed(&device, || Ok(self.model.encode_images(&self.pixels, &ForwardContext::inference())?))
            }
            Part::DecoderForward => timed(&device, || self.loss()),
            Part::DecoderBackward => {
                let loss = self.loss()?;
                timed(&device, || Ok(loss.backward()?))
            }
            Part::Passes => timed(&device, || Ok(self.loss()?.backward()?)),
            Part::Optimizer => {
                let gradients = self.accumulated()?;
                timed(&device, || self.update(gradients))
            }
            Part::WholeStep => timed(&device, || {
                let gradients = self.accumulated()?;
                self.update(gradients)
            }),
        }
    }

    fn loss(&self) -> Result<Tensor> {
        Ok(self.model.loss(&self.features, &self.input_ids, &self.labels, &self.ctx)?.0)
    }

    fn accumulated(&self) -> Result<Gradients> {
        let mut gradients = Gradients::new();
        gradients.accumulate(&self.parameters, self.loss()?.backward()?)?;
        Ok(gradients)
    }

    /// Clips the gradients and takes a step, as the engine does.
    fn update(&mut self, gradients: Gradients) -> Result<()> {
        let step = ClippedStep { max_norm: 1.0, ..ClippedStep::new(1e-5) };
        self.optimizer.clipped_step(&self.parameters, gradients, &step)?;
        Ok(())
    }
}

/// The seconds until `work` is done on the device and its result is dropped.
fn timed<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<f64> {
    device.synchronize()?;
    let start = Instant::now();
    drop(work()?);
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Token ids of a batch.
fn captions(vocabulary: u64) -> Vec<Vec<u32>> {
    let caption = |row| (0..TOKENS as u64).map(|i| (sample_key(7, row, i) % vocabulary) as u32).collect();
    (0..BATCH as u64).map(caption).collect()
}
