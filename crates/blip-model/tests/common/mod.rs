//! Checkpoints and inputs of the golden fixtures, and the results of transformers: see `fixtures/make_blip.py`.

// Each test binary compiles this module and uses a part of it; helpers of tests may panic.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../../git-model/tests/common/numbers.rs"]
mod numbers;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use blip_model::{BlipForConditionalGeneration, CaptionModel, Checkpoint, LoadOptions};
use candle_core::{DType, Device, Tensor, Var};
use peft_lora::{Adapter, LoraBuilder, LoraConfig, Modules};
use serde_json::Value;
use train_ops::LayerBuilder;

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

/// The options of a model on that device.
pub(crate) fn on_device() -> LoadOptions {
    LoadOptions { device: device(), decoding_graphs: true, ..LoadOptions::default() }
}

/// Path of a file of `tests/fixtures`.
pub(crate) fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)
}

/// A JSON file of `tests/fixtures`.
pub(crate) fn fixture_json(file: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(file)).unwrap()).unwrap()
}

/// A list of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A checkpoint given by its config, seed and scale.
pub(crate) struct Source(Value);

impl Source {
    /// Reads what `checkpoint()` in `make_blip.py` wrote.
    pub(crate) fn new(entry: &Value) -> Self {
        Self(entry.clone())
    }

    fn seed(&self) -> u64 {
        self.0["seed"].as_u64().unwrap()
    }

    fn scale(&self) -> f64 {
        self.0["scale"].as_f64().unwrap()
    }

    /// The content of `config.json`.
    pub(crate) fn config(&self) -> &Value {
        &self.0["config"]
    }

    /// Every tensor that transformers would save, by name.
    pub(crate) fn tensors(&self) -> HashMap<String, Tensor> {
        let value = |(name, shape): (String, Vec<usize>)| {
            let tensor = parameter(self.seed(), &name, &shape, self.scale());
            (name, tensor)
        };
        let mut tensors: HashMap<_, _> = shapes(&self.0["tensors"]).into_iter().map(value).collect();
        if let Some(raise) = self.0["eos_bias"].as_f64() {
            let bias = tensors.get_mut("text_decoder.cls.predictions.bias").unwrap();
            let mut values = bias.to_vec1::<f32>().unwrap();
            values[self.config()["text_config"]["sep_token_id"].as_u64().unwrap() as usize] += raise as f32;
            *bias = Tensor::new(values, &Device::Cpu).unwrap();
        }
        tensors
    }

    /// Picture `index` of `golden_generation.json`, as a batch of one.
    pub(crate) fn picture(&self, index: u64) -> Tensor {
        let shape = shape(&self.0["picture_shape"]);
        let pixels = pixels(self.seed(), &format!("picture.{index}"), &shape);
        pixels.unsqueeze(0).unwrap().to_device(&device()).unwrap()
    }

    /// Writes `config.json` and `model.safetensors`.
    pub(crate) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("config.json"), self.config().to_string()).unwrap();
        candle_core::safetensors::save(&self.tensors(), dir.join("model.safetensors")).unwrap();
    }

    /// The checkpoint, opened, and its folder.
    pub(crate) fn open(&self) -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (dir, checkpoint)
    }
}

/// One case of `make_blip.py`: `tied` or `wide`.
pub(crate) struct Golden {
    pub(crate) facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    /// Reads a case.
    pub(crate) fn load(case: &str) -> Self {
        let file = fixture(&format!("golden_{case}.safetensors"));
        Self {
            facts: fixture_json(&format!("golden_{case}.json")),
            tensors: candle_core::safetensors::load(file, &Device::Cpu).unwrap(),
        }
    }

    /// The weights of the case.
    pub(crate) fn source(&self) -> Source {
        Source::new(&self.facts["checkpoint"])
    }

    pub(crate) fn pixel_values(&self) -> Tensor {
        let pixels = pixels(self.source().seed(), "pixel_values", &shape(&self.facts["pixel_values"]));
        pixels.to_device(&device()).unwrap()
    }

    pub(crate) fn input_ids(&self) -> Tensor {
        self.ids("input_ids")
    }

    /// Recorded token ids.
    pub(crate) fn ids(&self, name: &str) -> Tensor {
        self.tensor(name).to_dtype(DType::U32).unwrap().to_device(&device()).unwrap()
    }

    pub(crate) fn labels(&self) -> Vec<Vec<i64>> {
        self.tensor("labels").to_vec2().unwrap()
    }

    /// A recorded tensor.
    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    /// Recorded gradients of the adapter `kind`, by their keys in PEFT's file.
    pub(crate) fn gradients(&self, kind: &str) -> BTreeMap<String, &Tensor> {
        let prefix = format!("{kind}.");
        let named = self.tensors.iter();
        named.filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor))).collect()
    }

    /// The model with the adapter `kind`, whose weights are those of the formula.
    pub(crate) fn adapted(
        &self,
        checkpoint: &Checkpoint,
        kind: &str,
        options: &blip_model::LoadOptions,
    ) -> (BlipForConditionalGeneration, Adapter) {
        self.adapted_with(kind, |builder| load(checkpoint, builder, options))
    }

    /// The model that `load` builds, with the adapter `kind`.
    pub(crate) fn adapted_with<M>(
        &self,
        kind: &str,
        load: impl FnOnce(&mut dyn LayerBuilder) -> M,
    ) -> (M, Adapter) {
        let facts = &self.facts[kind];
        let targets: Modules = match facts["targets"].as_array() {
            None => facts["targets"].as_str().unwrap().into(),
            Some(names) => {
                let names: Vec<&str> = names.iter().map(|name| name.as_str().unwrap()).collect();
                names.as_slice().into()
            }
        };
        let config = LoraConfig {
            r: facts["r"].as_u64().unwrap() as usize,
            lora_alpha: facts["alpha"].as_f64().unwrap(),
            target_modules: targets,
            ..LoraConfig::default()
        };
        let mut builder = LoraBuilder::new(config).unwrap();
        let model = load(&mut builder);
        let adapter = builder.finish().unwrap();
        let parameters = adapter.parameters();
        let expected: BTreeMap<String, Vec<usize>> = shapes(&facts["adapter"]).into_iter().collect();
        assert!(parameters.keys().eq(expected.keys()), "{kind}: PEFT adapts other layers");
        for (key, shape) in expected {
            let value = parameter(self.source().seed(), &key, &shape, self.source().scale());
            parameters[&key].set(&value.to_device(&device()).unwrap()).unwrap();
        }
        (model, adapter)
    }

    /// Loss as a mean, and its gradients by the names of `parameters`.
    pub(crate) fn loss_and_gradients(
        &self,
        model: &dyn CaptionModel,
        parameters: &BTreeMap<String, Var>,
    ) -> (f64, BTreeMap<String, Tensor>) {
        let ctx = train_ops::ForwardContext::training(vec![0; self.pixel_values().dim(0).unwrap()]);
        let features = model.encode_images(&self.pixel_values(), &ctx).unwrap();
        let (loss, targets) = model.loss(&features, &self.input_ids(), &self.labels(), &ctx).unwrap();
        let mean = (loss / targets as f64).unwrap();
        let mut store = mean.backward().unwrap();
        let gradient = |(name, variable): (&String, &Var)| {
            (name.clone(), store.remove(variable).unwrap_or_else(|| panic!("{name} has no gradient")))
        };
        let gradients = parameters.iter().map(gradient).collect();
        (f64::from(mean.to_scalar::<f32>().unwrap()), gradients)
    }
}

/// The model of a checkpoint.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    builder: &mut dyn LayerBuilder,
    options: &blip_model::LoadOptions,
) -> BlipForConditionalGeneration {
    BlipForConditionalGeneration::load_with(checkpoint, builder, options).unwrap()
}
