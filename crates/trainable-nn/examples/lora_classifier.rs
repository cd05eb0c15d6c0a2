//! LoRA on your own model with the training engine: early stopping, exact resume, and an adapter for Python's
//! PEFT. `cargo run --release --example lora_classifier [FOLDER]`; interrupt it, and the same command continues
//! it.
use std::path::PathBuf;

use candle_core::{D, DType, Device, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use trainable_nn::loss::cross_entropy;
use trainable_nn::{Embedding, ForwardContext, LayerNorm, Linear, Module, VarBuilder, VarMap};
use trainable_nn::{embedding, enter, layer_norm, linear, ops, sample_key};
use trainer_core::*;

const SIZE: usize = 32;
type Sample = ([u32; 12], u32); // a text of 12 tokens, and its class

/// The model, as one writes it with candle-nn.
struct Classifier(Embedding, [Linear; 3], LayerNorm, Linear);

impl Classifier {
    fn new(vb: VarBuilder) -> candle_core::Result<Self> {
        let projection = |name| linear(SIZE, SIZE, vb.pp("attention").pp(name));
        let attention = [projection("query")?, projection("key")?, projection("value")?];
        let norm = layer_norm(SIZE, 1e-5, vb.pp("norm"))?;
        Ok(Self(embedding(50, SIZE, vb.pp("words"))?, attention, norm, linear(SIZE, 2, vb.pp("output"))?))
    }

    fn loss(&self, samples: &[Sample]) -> candle_core::Result<LossSum> {
        let (texts, classes): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
        let words = self.0.forward(&Tensor::from_vec(texts.concat(), (samples.len(), 12), &Device::Cpu)?)?;
        let [query, key, value] = self.1.each_ref().map(|layer| layer.forward(&words));
        let scores = (query?.matmul(&key?.t()?)? / (SIZE as f64).sqrt())?;
        let context = (words + ops::softmax_last_dim(&scores)?.matmul(&value?)?)?;
        let logits = context.mean(D::Minus2)?.apply(&self.2)?.apply(&self.3)?;
        let mean = cross_entropy(&logits, &Tensor::new(classes, &Device::Cpu)?)?;
        Ok(LossSum { sum: (mean * samples.len() as f64)?, targets: samples.len() })
    }
}

impl Task for Classifier {
    type Batch = Vec<Sample>;

    fn train_loss(&self, batch: &Vec<Sample>, at: &StepContext) -> Result<LossSum, BoxError> {
        let key = |sample| sample_key(at.seed, at.step, at.first_sample + sample);
        let _pass = enter(ForwardContext::training((0..batch.len() as u64).map(key).collect::<Vec<_>>()));
        Ok(self.loss(batch)?)
    }

    fn eval_loss(&self, batch: &Vec<Sample>) -> Result<LossTotal, BoxError> {
        Ok(self.loss(batch)?.total()?)
    }

    fn num_samples(&self, batch: &Vec<Sample>) -> usize {
        batch.len()
    }
}

/// Texts of random tokens, half of which contain the token 7.
fn sample(index: u64) -> Sample {
    let mut text = std::array::from_fn(|token| 8 + (sample_key(1, index, token as u64) % 42) as u32);
    if index.is_multiple_of(2) {
        text[(sample_key(2, index, 0) % 12) as usize] = 7;
    }
    (text, u32::from(index.is_multiple_of(2)))
}

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map_or("runs/lora_classifier".into(), PathBuf::from);
    let base = folder.join("base.safetensors"); // stands for a checkpoint
    if !base.exists() {
        std::fs::create_dir_all(&folder)?;
        let random = VarMap::new();
        Classifier::new(VarBuilder::from_varmap(&random, DType::F32, &Device::Cpu))?;
        random.save(&base)?;
    }
    let vb = VarBuilder::from_buffered_safetensors(std::fs::read(base)?, DType::F32, &Device::Cpu)?;
    let config =
        LoraConfig { r: 8, lora_alpha: 16.0, target_modules: "all-linear".into(), ..Default::default() };
    let (model, lora) = vb.build(LoraBuilder::new(config)?, Classifier::new)?;
    let adapter = lora.finish()?;

    let arguments = TrainingArguments {
        num_train_epochs: 50.0,
        learning_rate: 0.01,
        eval_strategy: IntervalStrategy::Epoch,
        save_strategy: IntervalStrategy::Epoch,
        load_best_model_at_end: true,
        early_stopping_patience: Some(3),
        early_stopping_threshold: 0.001,
        ..TrainingArguments::new(folder.join("run"))
    };
    let trainer =
        Trainer::new(arguments, Parameters::new(adapter.parameters())?)?.sink(sinks::ConsoleSink::new());
    let training = InMemory::new((0..1024).map(sample).collect(), 32)?.shuffled(42);
    let validation = InMemory::new((1024..1280).map(sample).collect(), 64)?;
    let _outcome = trainer.resume(Resume::NewestIfAny).fit(&model, &training, Some(&validation))?;
    adapter.save(folder.join("adapter"))?; // in Python: PeftModel.from_pretrained(model, "…/adapter")
    Ok(())
}
