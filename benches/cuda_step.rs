//! A training step on an NVIDIA GPU, phase by phase: the time of each, and, on the stand-in for a GPU (`.ci/cuda-stand-in`), the
//! kernels, copies and allocations of each, which the last step counts.
//!
//! `CUDA_STEP_CHECKPOINT=path/to/git-base cargo bench --features cuda --bench cuda_step`. Without a checkpoint it uses the embedded
//! one. `CUDA_STEP_BATCH` pictures, 8 by default, with captions of 16 tokens; `CUDA_STEP_DTYPE` f32 or bf16; `CUDA_STEP_RUNS`
//! steps, 2 by default. Then the same number of forward and backward passes run as a CUDA graph, and the training engine takes steps
//! whose passes and optimizer are graphs. A decoding step with two beams a picture follows, first with a copy of all logits to the
//! host, then of the best ones. The last line has the medians, for `benches/cuda/summary`.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;
#[path = "cuda_step/engine.rs"]
mod engine;
#[path = "cuda_step/memory.rs"]
mod memory;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use git_model::{
    CaptionDecoder as _, CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions, NextTokens,
};
use libloading::os::unix::Library;
use peft_lora::LoraBuilder;
use train_ops::{DeviceGraph, ForwardContext, backward, cuda_device, sample_key};
use trainer_core::{AdamW, ClippedStep, Gradients, Optimizer, Parameters, TrainingArguments};

/// Tokens per caption, including start and end.
const TOKENS: usize = 16;
/// The last phase of a step.
const OPTIMIZER: &str = "4 norm, clip and AdamW";

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Seconds of the phases of this name, in their order.
#[derive(Default)]
struct Times(RefCell<HashMap<&'static str, Vec<f64>>>);

impl Times {
    fn median(&self, name: &str) -> f64 {
        common::median(self.0.borrow()[name].clone())
    }
}

/// Measures what was queued since the last call, and begins the next phase.
struct Phases<'a> {
    device: &'a Device,
    times: &'a Times,
    begun: Instant,
    name: &'static str,
    /// Whether what stands in for a GPU counts this step.
    counted: bool,
}

impl<'a> Phases<'a> {
    fn new(device: &'a Device, times: &'a Times, counted: bool) -> Self {
        Self { device, times, begun: Instant::now(), name: "before", counted }
    }

    fn begin(&mut self, name: &'static str) {
        self.device.synchronize().unwrap();
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{:>24} {:>9.2} ms", self.name, 1e3 * seconds);
        self.times.0.borrow_mut().entry(self.name).or_default().push(seconds);
        if self.counted {
            count_as(name);
        }
        (self.name, self.begun) = (name, Instant::now());
    }
}

/// Names the phase for the stand-in's counts, where the program runs on it.
fn count_as(phase: &str) {
    // SAFETY: the stand-in's function takes a string that it copies.
    #[allow(unsafe_code)]
    unsafe {
        let function = b"cuda_stand_in_phase\0";
        if let Ok(name_phase) = Library::this().get::<unsafe extern "C" fn(*const c_char)>(function) {
            name_phase(CString::new(phase).unwrap().as_ptr());
        }
    }
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
    replay(&model, &parameters, batch, steps, &times);
    let of_run = engine::steps(&model, &parameters, batch, steps as usize);
    let recorded = memory::peak(&device).unwrap();
    decode(&model, batch, &times);
    let (vision, optimizer) = (times.median("1 vision"), times.median(OPTIMIZER));
    let step = vision + times.median("2 forward") + times.median("3 backward") + optimizer;
    let graphs = vision + times.median("7 replay") + optimizer;
    println!(
        "summary {}, {batch}: step {:.3} ms, with graphs {:.3} ms, of a run {:.3} ms, {:.4} TFLOP, peak {:.3} GB, with graphs {:.3} GB",
        dtype.as_str(),
        1e3 * step,
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

/// Token ids, and the labels that are the same.
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

/// Forward and backward pass, recorded once and replayed with the dropout of each step, beside the same without a graph.
fn replay(model: &GitForCausalLm, parameters: &Parameters, batch: usize, steps: u64, times: &Times) {
    println!("as a graph");
    let mut phases = Phases::new(model.device(), times, false);
    let features = features(model, batch, 0, &mut phases);
    let (input_ids, labels) = captions(model, batch, 0);
    let pass = |ctx: &ForwardContext| {
        let (loss, _) = model.loss(&features, &input_ids, &labels, ctx).map_err(candle_core::Error::wrap)?;
        let store = backward(&loss)?;
        let gradients = parameters.iter().filter_map(|(_, variable)| store.get(variable).cloned());
        Ok(std::iter::once(loss.clone()).chain(gradients).collect::<Vec<_>>())
    };
    phases.begin("6 recording");
    let graph = DeviceGraph::record(model.device(), |_| pass(&training(batch, 0))).unwrap();
    // Each position but a row's last predicts the next token.
    let positions =
        (0..batch * TOKENS).filter(|position| position % TOKENS != TOKENS - 1).map(|at| at as u32);
    let targets = labels.iter().flat_map(|row| row[1..].iter().map(|label| *label as u32));
    let numbers: Vec<u32> = positions.chain(targets).collect();
    for step in 0..steps {
        let ctx = training(batch, step);
        phases.counted = step + 1 == steps;
        phases.begin("7 replay");
        let results = graph.replay(&ctx, &numbers).unwrap();
        phases.begin("6 without a graph");
        let loss = results[0].to_scalar::<f32>().unwrap();
        let expected = pass(&ctx).unwrap()[0].to_scalar::<f32>().unwrap();
        println!("loss {loss:.6}, without a graph {expected:.6}");
    }
    phases.begin("6 end");
}

/// A decoding step with two beams for each picture, which copies either all logits to the host, or those that a
/// search without penalties needs. The latter is also replayed as a graph.
fn decode(model: &GitForCausalLm, batch: usize, times: &Times) {
    const BEAMS: usize = 2;
    println!("decoding with {BEAMS} beams a picture");
    let mut phases = Phases::new(model.device(), times, false);
    let features = features(model, batch, 0, &mut phases);
    phases.begin("6 prompt");
    let mut decoding = model.begin_decoding(&features, (1 + 4 * BEAMS) * batch).unwrap();
    let start = model.tokens().start_token;
    decoding.append(&vec![start; batch]).unwrap();
    decoding.reorder(&(0..BEAMS * batch).map(|beam| beam / BEAMS).collect::<Vec<_>>()).unwrap();
    let tokens = vec![start; BEAMS * batch];
    phases.counted = true;
    // A step that occurs for the first time is not recorded.
    phases.begin("8 decoding, all logits");
    let all = decoding.append(&tokens).unwrap();
    phases.begin("9 decoding, best logits");
    decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("6 recording of decoding");
    decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("9 replay of decoding");
    let best = decoding.append_for_best(&tokens, 2 * BEAMS).unwrap();
    phases.begin("6 end");
    let NextTokens::Best(best) = best else { panic!("all logits were copied") };
    println!("{} logits copied, and {}", all.len(), best.logits.len());
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
