//! Checkpoints and inputs of the golden fixtures, and the results of transformers.
//!
//! No weights are committed: `fixtures/formula.py` defines every weight, pixel and adapter by its seed, name and
//! index, and this module computes the same numbers, bit for bit. `fixtures/make_golden.py` describes its cases,
//! `fixtures/make_generation.py` those of `golden_generation.json`.

// Each test binary compiles this module and uses a part of it; helpers of tests may panic.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod adapters;
pub(crate) mod captions;
pub(crate) mod models;
mod numbers;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use serde_json::Value;

pub(crate) use numbers::*;

/// The device that computes: the CPU, or with `TEST_DEVICE=cuda` a GPU, one for the whole run.
pub(crate) fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || match std::env::var("TEST_DEVICE").as_deref() {
        Ok("cuda") => train_ops::cuda_device(0).unwrap(),
        _ => Device::Cpu,
    };
    DEVICE.get_or_init(open).clone()
}

/// All of them on the CPU. Another device, which may be emulated, gets a few of each kind.
pub(crate) fn some<T>(cases: &[T]) -> Vec<&T> {
    cases.iter().step_by(if device().is_cpu() { 1 } else { 40 }).collect()
}

/// Picture `index` of a seed, as a batch of one on that device.
pub(crate) fn picture(seed: u64, index: u64, shape_of: &Value) -> Tensor {
    let pixels = pixels(seed, &format!("picture.{index}"), &shape(shape_of));
    pixels.unsqueeze(0).unwrap().to_device(&device()).unwrap()
}

/// Path of a file of `tests/fixtures`.
pub(crate) fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)
}

/// A JSON file of `tests/fixtures`.
pub(crate) fn fixture_json(file: &str) -> Value {
    let text = std::fs::read_to_string(fixture(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// A checkpoint given by its config, seed and scale.
pub(crate) struct Checkpoint(Value);

impl Checkpoint {
    /// Reads what `checkpoint()` in `make_golden.py` wrote; `golden_generation.json` adds `eos_bias` and
    /// `picture_shape`.
    pub(crate) fn new(entry: &Value) -> Self {
        Self(entry.clone())
    }

    /// Seed of the formula.
    pub(crate) fn seed(&self) -> u64 {
        self.0["seed"].as_u64().unwrap()
    }

    /// Factor on every matrix; see `formula.py`.
    pub(crate) fn scale(&self) -> f64 {
        self.0["scale"].as_f64().unwrap()
    }

    /// The content of `config.json`.
    pub(crate) fn config(&self) -> &Value {
        &self.0["config"]
    }

    /// Picture `index` of a checkpoint of `golden_generation.json`, as a batch of one.
    pub(crate) fn picture(&self, index: u64) -> Tensor {
        picture(self.seed(), index, &self.0["picture_shape"])
    }

    /// Every tensor that transformers would save, by name.
    pub(crate) fn tensors(&self) -> HashMap<String, Tensor> {
        let mut tensors: HashMap<_, _> = shapes(&self.0["tensors"])
            .into_iter()
            .map(|(name, shape)| {
                let tensor = parameter(self.seed(), &name, &shape, self.scale());
                (name, tensor)
            })
            .collect();
        if let Some(raise) = self.0["eos_bias"].as_f64() {
            let eos = self.config()["eos_token_id"].as_u64().unwrap() as usize;
            let mut bias = tensors["output.bias"].to_vec1::<f32>().unwrap();
            bias[eos] += raise as f32;
            tensors.insert("output.bias".into(), Tensor::new(bias, &Device::Cpu).unwrap());
        }
        tensors
    }

    /// Writes `config.json` and `model.safetensors`.
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("config.json"), self.config().to_string()).unwrap();
        candle_core::safetensors::save(&self.tensors(), dir.join("model.safetensors")).unwrap();
    }
}

/// One case of `make_golden.py`: `tiny`, `small`, `video`, `tied` or `wide`.
pub(crate) struct Golden {
    /// The case's JSON: `loss`, `target_tokens`, `lora`, `vision_lora`, `full`, …
    pub(crate) facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads a case.
    pub(crate) fn load(case: &str) -> Self {
        let facts = fixture_json(&format!("golden_{case}.json"));
        let file = fixture(&format!("golden_{case}.safetensors"));
        Self { facts, tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap() }
    }

    /// The weights of the case.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(&self.facts["checkpoint"])
    }

    /// The pictures of the batch on the [`device`]: (captions, [frames,] 3, size, size).
    pub(crate) fn pixel_values(&self) -> Tensor {
        let pixels = pixels(self.checkpoint().seed(), "pixel_values", &shape(&self.facts["pixel_values"]));
        pixels.to_device(&device()).unwrap()
    }

    /// A recorded tensor, such as `logits` or `lora.KEY`.
    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    /// Recorded gradients of `kind` (`lora`, `vision_lora` or `full`), by parameter, sorted by name.
    pub(crate) fn gradients(&self, kind: &str) -> Vec<(&str, &Tensor)> {
        let prefix = format!("{kind}.");
        let named = self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&prefix)?, t)));
        let mut gradients: Vec<_> = named.collect();
        gradients.sort_by_key(|(name, _)| *name);
        assert!(!gradients.is_empty(), "the fixture has no gradients of {kind}");
        gradients
    }

    /// The adapter tensors that the gradients of `kind` were taken at, by their key in PEFT's file.
    pub(crate) fn adapter(&self, kind: &str) -> HashMap<String, Tensor> {
        let checkpoint = self.checkpoint();
        shapes(&self.facts[kind]["adapter"])
            .into_iter()
            .map(|(key, shape)| {
                let tensor = parameter(checkpoint.seed(), &key, &shape, checkpoint.scale());
                (key, tensor)
            })
            .collect()
    }
}
