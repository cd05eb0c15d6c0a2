//! Training passes as CUDA graphs, on the device `TEST_DEVICE`. The CPU has no graphs, and the test shows that it needs none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;

use candle_core::{Device, Tensor};
use caption_lora::embedded;
use caption_lora::features::PassFeatures;
use caption_lora::step_graphs::{Pass, StepGraphs};
use caption_model::TextBatch;
use git_model::{CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions};
use peft_lora::{Adapter, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, sample_key};
use trainer_core::{Gradients, Parameters};

const PICTURES: usize = 2;

fn device() -> Device {
    match std::env::var("TEST_DEVICE").as_deref() {
        Ok("cuda") => train_ops::cuda_device(0).unwrap(),
        _ => Device::Cpu,
    }
}

fn model(config: LoraConfig) -> (GitForCausalLm, Adapter) {
    let checkpoint = Checkpoint::open(embedded::checkpoint().unwrap()).unwrap();
    let config = LoraConfig { lora_dropout: 0.2, target_modules: ["query", "value"].into(), ..config };
    let mut builder = LoraBuilder::new(config).unwrap().output_layer("output");
    let options = LoadOptions { device: device(), ..LoadOptions::default() };
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    (model, builder.finish().unwrap())
}

/// Gives all parameters new values, where they are.
fn set(adapter: &Adapter, seed: f64) {
    for parameter in adapter.parameters().values() {
        let elements = Tensor::arange(0f32, parameter.elem_count() as f32, parameter.device()).unwrap();
        let values = ((elements + seed).unwrap().cos().unwrap() * 0.1).unwrap();
        parameter.set(&values.reshape(parameter.shape()).unwrap()).unwrap();
    }
}

fn launched(pass: &Pass<'_>, text: &TextBatch, features: &PassFeatures<'_>) -> (Tensor, usize, Gradients) {
    let features = features.get().unwrap();
    let (loss, targets) = pass.model.text_loss(&features, text, pass.label_smoothing, &pass.ctx).unwrap();
    let mut gradients = Gradients::new();
    gradients.accumulate(pass.parameters, loss.backward().unwrap()).unwrap();
    (loss, targets, gradients)
}

#[test]
fn graphs_are_those_of_the_adapter_and_the_loss_of_the_pass() {
    let olora = LoraConfig {
        r: 2,
        lora_alpha: 8.0,
        init_lora_weights: InitLoraWeights::Olora,
        ..LoraConfig::default()
    };
    let (model, adapter) = model(olora);
    let device = model.device().clone();
    // Pictures have few tokens, so that a stand-in for a GPU need not compute long.
    let width = model.config().vision_config.hidden_size;
    let features = Tensor::arange(0f32, (PICTURES * 3 * width) as f32, &device).unwrap();
    let features = features.sin().unwrap().reshape((PICTURES, 3, width)).unwrap();
    let ids = [[1u32, 5, 9, 2], [1, 7, 3, 2]];
    let labels: Vec<Vec<i64>> = ids.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect();
    let text = TextBatch::captions(&Tensor::new(&ids, &device).unwrap(), &labels).unwrap();

    let saved = tempfile::tempdir().unwrap();
    // As an OLoRA adapter in files: the second half of the rank is what the weights are without.
    let (_, other) = self::model(LoraConfig { r: 4, lora_alpha: 16.0, ..LoraConfig::default() });
    set(&other, 3.0);
    other.save(saved.path()).unwrap();
    set(&adapter, 1.0);
    let graphs = [StepGraphs::new(&device), None];
    let mut losses = Vec::new();
    let mut passes = |count: u64, adapter: &Adapter, label_smoothing: f32| {
        let parameters = Parameters::new(adapter.parameters()).unwrap();
        for step in 0..count {
            let run = |graphs: &Option<StepGraphs>| {
                let keys: Vec<u64> = (0..PICTURES as u64).map(|row| sample_key(1, step, row)).collect();
                let ctx = ForwardContext::training(keys);
                let pass = Pass { model: &model, parameters: &parameters, label_smoothing, ctx };
                let features = PassFeatures::Given(features.clone());
                let (loss, targets, gradients) = match graphs {
                    Some(graphs) => graphs.run(&pass, &text, &features).unwrap(),
                    None => launched(&pass, &text, &features),
                };
                (loss.to_scalar::<f32>().unwrap(), targets, gradients.norms().unwrap().global())
            };
            let [found, expected] = graphs.each_ref().map(run);
            assert_eq!(found, expected, "smoothing {label_smoothing}, step {step}");
            if step == 0 {
                losses.push(found.0);
            }
        }
    };
    // Launched, recorded and replayed.
    passes(3, &adapter, 0.0);
    passes(3, &adapter, 0.3);
    // The same variables, but another residual of the weights.
    adapter.load_weights(saved.path()).unwrap();
    passes(2, &adapter, 0.0);
    set(&adapter, 5.0);
    passes(1, &adapter, 0.0);
    // New variables.
    let new = adapter.adapters().hot_swap("default", saved.path()).unwrap();
    passes(1, &new, 0.0);
    let all: HashSet<u32> = losses[..4].iter().map(|loss: &f32| loss.to_bits()).collect();
    assert_eq!(all.len(), 4, "{losses:?}");
    let warnings: Vec<_> = graphs.iter().flatten().flat_map(StepGraphs::take_warnings).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}
