//! Helpers of the benches.

// Each bench uses some of these.
#![allow(dead_code)]

pub(crate) mod arithmetic;

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use peft_lora::LoraConfig;

/// The GPU if the build supports one and the machine has one, else the CPU.
///
/// # Panics
/// With `TEST_DEVICE=cuda`, if there is no GPU: times of the CPU must not be taken for its.
pub(crate) fn device() -> Device {
    let required = std::env::var("TEST_DEVICE").is_ok_and(|device| device == "cuda");
    if !required && !candle_core::utils::cuda_is_available() {
        return Device::Cpu;
    }
    // As the programs open it: on CUDA's default stream nothing could be recorded.
    match train_ops::cuda_device(0) {
        Ok(device) => device,
        Err(error) if required => panic!("TEST_DEVICE is cuda, and the GPU cannot be used: {error}"),
        Err(error) => {
            println!("the benches run on the CPU: {error}");
            Device::Cpu
        }
    }
}

/// Uses `BENCH_THREADS` threads, 2 by default.
pub(crate) fn use_threads() {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok());
    caption_lora::threads::use_threads(Some(threads.unwrap_or(2))).expect("the first call");
}

/// The recipe's adapters.
pub(crate) fn lora_config() -> LoraConfig {
    LoraConfig {
        r: 16,
        lora_alpha: 32.0,
        lora_dropout: 0.05,
        target_modules: ["query", "key", "value", "dense"].into(),
        ..LoraConfig::default()
    }
}

/// Fixed pseudo-random values in (-1, 1).
pub(crate) fn values(seed: u64, shape: impl Into<candle_core::Shape>, device: &Device) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elem_count() as u64)
        .map(|i| (train_ops::sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, device).expect("a tensor")
}

/// The median time in seconds of `runs` calls after a warm-up call, including the device's work.
pub(crate) fn median_seconds(device: &Device, runs: usize, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    device.synchronize()?;
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        f()?;
        device.synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
