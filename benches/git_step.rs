//! A training step by parts: vision forward, decoder forward, backward, optimizer, and the whole step.
//!
//! `GIT_STEP_CHECKPOINT=path/to/git-base cargo bench --bench git_step`. Without a checkpoint it uses the
//! embedded one, which is far too small for conclusions about git-base. `-- --test` runs every part once. For
//! bf16 and int8 it also prints how far the adapters' gradients are from those in f32.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor, Var};
use git_model::{CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions};
use peft_lora::{BaseType, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, peak_flops, sample_key};
use trainer_core::{AdamW, Gradients, Optimizer, Parameters, TrainingArguments};

/// Tokens per caption, including start and end.
const TOKENS: usize = 16;
/// Batch size.
const BATCH: usize = 2;

fn main() -> Result<()> {
    common::use_threads();
    let device = common::device();
    let quick = std::env::args().any(|argument| argument == "--test");
    let dir = match std::env::var_os("GIT_STEP_CHECKPOINT") {
        Some(dir) => PathBuf::from(dir),
        None => caption_lora::embedded::checkpoint().unwrap(),
    };
    println!("checkpoint {}", dir.display());
    let mut exact = None;
    for base in [BaseType::Stored, BaseType::Bf16, BaseType::Int8Products] {
        if base == BaseType::Int8Products && !device.is_cpu() {
            continue;
        }
        let gradients = bench(&dir, base, &device, if quick { 1 } else { 9 })?;
        match &exact {
            None => exact = Some(gradients),
            Some(exact) => print_agreement(exact, &gradients),
        }
    }
    Ok(())
}

/// The gradients of all adapters' matrices, by name.
type AdapterGradients = BTreeMap<String, Vec<f32>>;

/// Prints the smallest and the median cosine of an adapter's gradient with the exact one, and the range of the ratio of their
/// norms.
fn print_agreement(exact: &AdapterGradients, gradients: &AdapterGradients) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let of_both = |(exact, got): (&Vec<f32>, &Vec<f32>)| {
        let norms = [exact, got].map(|values| dot(values, values).sqrt());
        (dot(exact, got) / norms[0] / norms[1], norms[1] / norms[0])
    };
    let (mut cosines, mut ratios): (Vec<f64>, Vec<f64>) =
        exact.values().zip(gradients.values()).map(of_both).unzip();
    cosines.sort_by(f64::total_cmp);
    ratios.sort_by(f64::total_cmp);
    println!(
        "{:>20} {} matrices against f32: cosine {:.5} at least, median {:.5}; norm {:.3} to {:.3} times",
        "gradients",
        cosines.len(),
        cosines[0],
        cosines[cosines.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

fn bench(dir: &std::path::Path, base: BaseType, device: &Device, runs: usize) -> Result<AdapterGradients> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let config = LoraConfig {
        r: 16,
        lora_alpha: 32.0,
        lora_dropout: 0.05,
        target_modules: ["query", "key", "value", "dense"].into(),
        ..LoraConfig::default()
    };
    let mut builder = LoraBuilder::new(config).unwrap().base(base);
    let dtype = if base == BaseType::Bf16 { DType::BF16 } else { DType::F32 };
    let options = LoadOptions { device: device.clone(), dtype, ..LoadOptions::default() };
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    let adapter = builder.finish().unwrap();
    // B would otherwise be zero, and so would the gradient of A.
    for (seed, (_, b)) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")).enumerate()
    {
        b.set(&(common::values(100 + seed as u64, b.shape().clone(), device) * 0.02)?)?;
    }

    let size = model.config().vision_config.image_size;
    let pixels = common::values(1, (BATCH, 3, size, size), device);
    let features = model.encode_images(&pixels, &ForwardContext::inference()).unwrap().detach();
    let vocabulary = model.config().vocab_size as u64;
    let (rows, labels) = captions(vocabulary);
    let input_ids = Tensor::new(rows, device)?;
    let ctx = ForwardContext::training((0..BATCH as u64).map(|i| sample_key(1, 0, i)).collect::<Vec<_>>());
    let loss = || Ok::<_, candle_core::Error>(model.loss(&features, &input_ids, &labels, &ctx).unwrap().0);
    let parameters = Parameters::new(adapter.parameters()).unwrap();

    let store = loss()?.backward()?;
    let gradient = |(name, parameter): (String, Var)| -> Result<(String, Vec<f32>)> {
        let values = store.get(parameter.as_tensor()).unwrap().flatten_all()?.to_vec1()?;
        Ok((name, values))
    };
    let first_gradients =
        adapter.parameters().into_iter().map(gradient).collect::<Result<AdapterGradients>>()?;

    let (encoder, needed) = flops(&model);
    // Seconds and, on the CPU, the share of the peak.
    let measure = |flops: f64, f: &mut dyn FnMut() -> Result<()>| match device.is_cpu() {
        true => common::median_share(runs, (flops, base == BaseType::Bf16), f)
            .map(|(seconds, share)| (seconds, Some(share))),
        false => common::median_seconds(device, runs, f).map(|seconds| (seconds, None)),
    };
    let vision = measure(encoder, &mut || {
        model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
        Ok(())
    })?;
    let forward = common::median_seconds(device, runs, || loss().map(drop))?;
    let both = measure(needed, &mut || loss()?.backward().map(drop))?;
    let mut gradients = Gradients::new();
    gradients.accumulate(&parameters, loss()?.backward()?).unwrap();
    let mut optimizer = AdamW::new(&TrainingArguments::default(), &parameters).unwrap();
    let update = common::median_seconds(device, runs, || {
        optimizer.step(&parameters, &gradients, 1e-5).unwrap();
        Ok(())
    })?;
    let step = measure(needed, &mut || {
        let mut gradients = Gradients::new();
        gradients.accumulate(&parameters, loss()?.backward()?).unwrap();
        gradients.clip(gradients.norms().unwrap().global(), 1.0).unwrap();
        optimizer.step(&parameters, &gradients, 1e-5).unwrap();
        Ok(())
    })?;

    print_times(
        base,
        runs,
        [
            ("vision forward", vision),
            ("decoder forward", (forward, None)),
            ("decoder backward", (both.0 - forward, None)),
            ("optimizer", (update, None)),
            ("forward + backward", both),
            ("whole step", step),
        ],
    );
    Ok(first_gradients)
}

/// Token ids and labels of a batch.
fn captions(vocabulary: u64) -> (Vec<Vec<u32>>, Vec<Vec<i64>>) {
    let rows: Vec<Vec<u32>> = (0..BATCH as u64)
        .map(|row| (0..TOKENS as u64).map(|i| (sample_key(7, row, i) % vocabulary) as u32).collect())
        .collect();
    let labels: Vec<Vec<i64>> =
        rows.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect();
    (rows, labels)
}

/// Prints the seconds of each part, and its share of the peak.
fn print_times(base: BaseType, runs: usize, parts: [(&str, (f64, Option<f64>)); 6]) {
    // For int8, the share is of the peak of f32, and may exceed 100 %.
    let peak = peak_flops(base == BaseType::Bf16, 5).expect("an instruction set of this processor");
    let name = match base {
        BaseType::Bf16 => "bf16",
        BaseType::Int8Products => "int8",
        _ => "f32",
    };
    println!(
        "\n{name}, a batch of {BATCH}, {TOKENS} tokens, median of {runs}; peak at the end {:.0} GFLOP/s",
        peak / 1e9
    );
    for (part, (seconds, share)) in parts {
        let share = share.map_or(String::new(), |share| format!("{:>6.0} % of peak", 100.0 * share));
        println!("{part:>20} {:>9.2} ms{share}", 1e3 * seconds);
    }
}

/// Required floating-point operations of a batch: in the frozen encoder, and in the decoder's forward and
/// backward pass. The last layer computes only keys and values for the image tokens, and the first layer's
/// backward pass has no gradient for the image.
fn flops(model: &GitForCausalLm) -> (f64, f64) {
    let config = model.config();
    let vision = &config.vision_config;
    let layer = |tokens: f64, width: f64, inner: f64| {
        2.0 * tokens * width * (4.0 * width + 2.0 * inner) + 4.0 * tokens * tokens * width
    };
    let image = (vision.image_size / vision.patch_size).pow(2) as f64 + 1.0;
    let encoder = vision.num_hidden_layers as f64
        * layer(image, vision.hidden_size as f64, vision.intermediate_size as f64);
    let (width, inner) = (config.hidden_size as f64, config.intermediate_size as f64);
    let (text, layers) = (TOKENS as f64, config.num_hidden_layers as f64);
    let all = image + text;
    let last =
        2.0 * width * (2.0 * all * width + text * (2.0 * width + 2.0 * inner)) + 4.0 * all * text * width;
    let head = 2.0 * (text - 1.0) * width * config.vocab_size as f64;
    let forward = (layers - 1.0) * layer(all, width, inner) + last + head;
    let first_input = 2.0 * image * width * 3.0 * width;
    (BATCH as f64 * encoder, BATCH as f64 * (2.0 * forward - first_input))
}
