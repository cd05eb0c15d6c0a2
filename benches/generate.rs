//! Captioning: seconds per picture with the recipe's decoding and with greedy decoding, batches compared with
//! single pictures, and the share of the memory bandwidth that a decoding step reaches.
//!
//! `GENERATE_CHECKPOINT=path/to/git-base cargo bench --bench generate`. Without a checkpoint it uses the
//! embedded one, which is far too small for conclusions about git-base. `-- --test` runs every part once.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use git_model::{
    CaptionModel as _, Checkpoint, Draft, GenerationConfig, GitForCausalLm, LoadOptions, Progress,
};
use train_ops::{ForwardContext, FrozenBuilder, Int8Builder, LayerBuilder};

/// Tokens per caption. Random weights never generate the end token, and for a trained model it is forbidden.
const TOKENS: usize = 40;
const BATCH: usize = 16;

fn main() -> Result<()> {
    common::use_threads();
    let device = common::device();
    let quick = std::env::args().any(|argument| argument == "--test");
    let dir = match std::env::var_os("GENERATE_CHECKPOINT") {
        Some(dir) => PathBuf::from(dir),
        None => caption_lora::embedded::checkpoint().unwrap(),
    };
    println!("checkpoint {}", dir.display());
    let memory = bytes_per_second(if quick { 1 << 20 } else { 1 << 28 });
    println!("memory is read at {:.1} GB/s by all threads together", memory / 1e9);
    for storage in [Storage::F32, Storage::Bf16, Storage::Int8] {
        if matches!(storage, Storage::Int8) && !device.is_cpu() {
            println!("\nInt8 is only for the CPU");
            continue;
        }
        bench(&dir, storage, &device, quick, memory)?;
    }
    Ok(())
}

/// Storage type of the weights; the discriminant is its size in bytes.
#[derive(Clone, Copy, Debug)]
enum Storage {
    F32 = 4,
    Bf16 = 2,
    Int8 = 1,
}

fn bench(dir: &Path, storage: Storage, device: &Device, quick: bool, memory: f64) -> Result<()> {
    let (runs, batch) = if quick { (1, 2) } else { (5, BATCH) };
    let dtype = if matches!(storage, Storage::Bf16) { DType::BF16 } else { DType::F32 };
    let builder: &mut dyn LayerBuilder =
        if matches!(storage, Storage::Int8) { &mut Int8Builder } else { &mut FrozenBuilder };
    let graphs = LoadOptions { decoding_graphs: true, ..LoadOptions::default() };
    let options = LoadOptions { device: device.clone(), dtype, ..graphs };
    let model = GitForCausalLm::load_with(&Checkpoint::open(dir).unwrap(), builder, &options).unwrap();
    let size = model.config().vision_config.image_size;
    let pixels = common::values(1, (batch, 3, size, size), device);
    let encode = |pixels: &Tensor| model.encode_images(pixels, &ForwardContext::inference()).unwrap();
    let first = pixels.narrow(0, 0, 1)?;

    let config = |base: GenerationConfig, tokens: usize| GenerationConfig {
        max_new_tokens: tokens,
        min_new_tokens: tokens,
        ..base
    };
    let (greedy, recipe) = (GenerationConfig::default, GenerationConfig::recipe);
    let seconds = |runs: usize, pixels: &Tensor, config: &GenerationConfig, draft: Option<&Draft>| {
        common::median_seconds(device, runs, || {
            let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
            model.generate_with(&encode(pixels), None, config, draft, on_token).unwrap();
            Ok(())
        })
    };
    let has_draft = device.is_cpu() && !matches!(storage, Storage::Int8);
    let draft = has_draft.then(|| model.draft().unwrap());
    println!("\n{storage:?}, {TOKENS} tokens, median of {runs}");
    let encoder = common::median_seconds(device, runs, || {
        encode(&first);
        Ok(())
    })?;
    println!("{:>26} {:>9.1} ms", "vision encoder", 1e3 * encoder);
    let bytes = model.caption_config().decoder_weights() as f64 * storage as u8 as f64;
    for (name, base) in [("greedy", greedy()), ("2 beams (recipe)", recipe())] {
        let begin = seconds(runs, &first, &config(base.clone(), 1), None)?;
        let all = seconds(runs, &first, &config(base.clone(), TOKENS), None)?;
        let step = (all - begin) / (TOKENS - 1) as f64;
        println!("{name:>26} {:>9.1} ms a picture, {:.1} of it to the first token", 1e3 * all, 1e3 * begin);
        summary(storage, 1, &base, 1.0 / all);
        // The measured bandwidth is that of the host's memory.
        let share = device.is_cpu().then(|| 100.0 * bytes / step / memory);
        let share = share.map_or(String::new(), |share| format!(", {share:.0} % of the memory's speed"));
        println!(
            "{:>26} {:>9.2} ms, {:.1} GB/s of weights{share}",
            "a step of it",
            1e3 * step,
            bytes / step / 1e9
        );
        if draft.is_some() {
            let drafted = seconds(runs, &first, &config(base, TOKENS), draft.as_ref())?;
            println!("{:>26} {:>9.1} ms a picture", "with a draft", 1e3 * drafted);
        }
    }
    let recipe = config(recipe(), TOKENS);
    let one_by_one = common::median_seconds(device, 1, || {
        for picture in 0..batch {
            model.generate(&encode(&pixels.narrow(0, picture, 1)?), None, &recipe).unwrap();
        }
        Ok(())
    })?;
    let together = seconds(1, &pixels, &recipe, None)?;
    println!(
        "{:>26} {:>9.2} pictures/s one by one, {:.2} in a batch: {:.2} times as many",
        format!("{batch} pictures (recipe)"),
        batch as f64 / one_by_one,
        batch as f64 / together,
        one_by_one / together
    );
    summary(storage, batch, &recipe, batch as f64 / together);
    Ok(())
}

/// A line as `benches/cuda/reference_step.py` prints it, for `benches/cuda/summary`.
fn summary(storage: Storage, pictures: usize, config: &GenerationConfig, per_second: f64) {
    let (storage, beams) = (format!("{storage:?}").to_lowercase(), config.num_beams);
    println!("captions {storage}, {pictures}, {beams} beams: {per_second:.2} pictures/s");
}

/// The bandwidth at which all threads together read memory that is larger than the caches.
fn bytes_per_second(values: usize) -> f64 {
    use rayon::prelude::*;
    let data = vec![1.0f32; values];
    let read = || {
        let sum = |part: &[f32]| {
            part.as_chunks::<64>().0.iter().fold([0.0f32; 64], |mut sum, part| {
                sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                sum
            })
        };
        let parts: Vec<[f32; 64]> = data.par_chunks(1 << 16).map(sum).collect();
        std::hint::black_box(parts);
        Ok(())
    };
    4.0 * values as f64 / common::median_seconds(&Device::Cpu, 5, read).expect("a time")
}
