//! A training step on an NVIDIA GPU, phase by phase: the time of each, and, on the stand-in for a GPU (`.ci/cuda-stand-in`), the
//! kernels, copies and allocations of each, which the last step counts.
//!
//! `CUDA_STEP_CHECKPOINT=path/to/git-base cargo bench --features fused-cuda --bench cuda_step`. Without a checkpoint it uses the
//! embedded one. `CUDA_STEP_BATCH` pictures, 8 by default, with captions of 16 tokens; `CUDA_STEP_DTYPE` f32 or bf16;
//! `CUDA_STEP_RUNS` steps, 2 by default. The training engine then takes the same step with graphs: of the vision encoder, the passes
//! and the optimizer. After that, the passes alone run as a graph, and the engine takes steps with cached image features. A decoding
//! step with two beams a picture follows, first with a copy of all logits to the host, then of the best ones. The last lines have the
//! medians, for `benches/cuda/summary`.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;
#[path = "cuda_step/encoded.rs"]
mod encoded;
#[path = "cuda_step/engine.rs"]
mod engine;
#[path = "cuda_step/memory.rs"]
mod memory;
#[path = "cuda_step/phases.rs"]
mod phases;
#[path = "cuda_step/replay.rs"]
mod replay;

use std::path::PathBuf;

use candle_core::{DType, Tensor};
use git_model::{CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions};
use peft_lora::LoraBuilder;
use phases::{Phases, Times};
use train_ops::{ForwardContext, backward, cuda_device, sample_key};
use trainer_core::{AdamW, ClippedStep, Gradients, Optimizer, Parameters, TrainingArguments};

/// Tokens per caption, including start and end.
const TOKENS: usize = 16;
/// The last phase of a step.
const OPTIMIZER: &str = "4 norm, clip and AdamW";

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() {
    common::use_threads();
    let device = cuda_device(0).unwrap();
    let (batch, steps) = (setting("CUDA_STEP_BATCH", 8usize), setting("CUDA_STEP_RUNS", 2u64));
    let dtype = if setting("CUDA_STEP_DTYPE", String::new()) == "bf16" { DType::BF16 } else { DType::F32 };
    let dir = match std::env::var_os("CUDA_STEP_CHECKPOINT") {
        Some(dir) => PathBuf::from(dir),
        None => caption_lora::embedded::checkpoint().unwrap(),
    };
    let mut builder = LoraBuilder::new(common::lora_config()).unwrap();
    let device_options = LoadOptions { device: device.clone(), dtype, ..LoadOptions::default() };
    let options = LoadOptions { decoding_graphs: true, ..device_options };
    let checkpoint = Checkpoint::open(dir).unwrap();
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    let parameters = Parameters::new(builder.finish().unwrap().parameters()).unwrap();
    let mut optimizer = AdamW::new(&TrainingArguments::default(), &parameters).unwrap();
    println!("{dtype:?}, {batch} pictures, {} trained tensors", parameters.iter().count());
    let times = Times::default();
    for step in 0..steps {
        let mut phases = Phases::new(&device, &times, step + 1 == steps);
        println!("step {step}");
        train(&model, &parameters, &mut optimizer, batch, step, &mut phases);
    }
    let launched = memory::peak(&device).unwrap();
    memory::begin_peak(&device).unwrap();
    let graphs = encoded::steps(&model, &parameters, batch, steps as usize);
    let recorded = memory::peak(&device).unwrap();
    replay::passes(&model, &parameters, batch, steps, &times);
    let of_run = engine::steps(&model, &parameters, batch, steps as usize);
    replay::decoding(&model, batch, &times);
    let names = ["1 vision", "2 forward", "3 backward", OPTIMIZER, "7 replay"];
    let [vision, forward, backward, optimizer, passes] = names.map(|name| 1e3 * times.median(name));
    let dtype = dtype.as_str();
    println!(
        "phases {dtype}, {batch}: vision {vision:.3} ms, forward {forward:.3} ms, backward {backward:.3} ms, \
         optimizer {optimizer:.3} ms; forward and backward as a graph {passes:.3} ms"
    );
    println!(
        "summary {dtype}, {batch}: step {:.3} ms, with graphs {:.3} ms, of a run {:.3} ms, {:.4} TFLOP, \
         peak {:.3} GB, with graphs {:.3} GB",
        vision + forward + backward + optimizer,
        1e3 * graphs,
        1e3 * of_run,
        flops(&model, batch) / 1e12,
        launched as f64 / 1e9,
        recorded as f64 / 1e9,
    );
}

/// The operations that a step requires.
fn flops(model: &GitForCausalLm, batch: usize) -> f64 {
    let decoder = common::arithmetic::decoder(model.config(), TOKENS);
    batch as f64 * (common::arithmetic::encoder(model.config()) + decoder.forward + decoder.backward)
}

/// Pictures' features of the frozen encoder.
fn features(model: &GitForCausalLm, batch: usize, step: u64, phases: &mut Phases<'_>) -> Tensor {
    let size = model.config().vision_config.image_size;
    let pixels = common::values(step, (batch, 3, size, size), model.device());
    phases.begin("1 vision");
    model.encode_images(&pixels, &ForwardContext::inference()).unwrap().detach()
}

/// Token ids `(batch, 16)`, and the labels that are the same.
fn captions(model: &GitForCausalLm, batch: usize, step: u64) -> (Tensor, Vec<Vec<i64>>) {
    let vocabulary = model.config().vocab_size as u64;
    let id = |row, i| (sample_key(7 + step, row, i) % vocabulary) as u32;
    let ids: Vec<Vec<u32>> =
        (0..batch as u64).map(|row| (0..TOKENS as u64).map(|i| id(row, i)).collect()).collect();
    let labels = ids.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect();
    (Tensor::new(ids, model.device()).unwrap(), labels)
}

fn training(batch: usize, step: u64) -> ForwardContext {
    ForwardContext::training((0..batch as u64).map(|i| sample_key(1, step, i)).collect::<Vec<_>>())
}

fn train(
    model: &GitForCausalLm,
    parameters: &Parameters,
    optimizer: &mut AdamW,
    batch: usize,
    step: u64,
    phases: &mut Phases<'_>,
) {
    let features = features(model, batch, step, phases);
    phases.begin("2 forward");
    let (input_ids, labels) = captions(model, batch, step);
    let (loss, targets) = model.loss(&features, &input_ids, &labels, &training(batch, step)).unwrap();
    phases.begin("3 backward");
    let store = backward(&loss).unwrap();
    phases.begin(OPTIMIZER);
    let mut gradients = Gradients::new();
    gradients.accumulate(parameters, store).unwrap();
    let loss = f64::from(loss.to_scalar::<f32>().unwrap()) / targets as f64;
    let factor = 1.0 / targets as f64;
    let step = ClippedStep { factor, max_norm: 1.0, device_graph: false, ..ClippedStep::new(1e-3) };
    let norms = optimizer.clipped_step(parameters, gradients, &step).unwrap();
    phases.begin("6 end");
    println!("loss {loss:.6}, norm {:.6}", norms.global());
}
