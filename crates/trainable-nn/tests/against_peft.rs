//! Two models in candle's style against transformers with PEFT: logits, loss, the gradient of every A and B, and adapters
//! through files in both directions. `fixtures/make_models.py` made the expected values.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod models;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use models::{bert, qwen2};
use peft_lora::{Adapter, LoraBuilder};
use trainable_nn::{ForwardContext, VarBuilder, enter, loss::cross_entropy};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn config<C: serde::de::DeserializeOwned>(name: &str) -> C {
    serde_json::from_str(&std::fs::read_to_string(fixture(name).join("base/config.json")).unwrap()).unwrap()
}

fn weights(name: &str) -> VarBuilder<'static> {
    let weights = std::fs::read(fixture(name).join("base/model.safetensors")).unwrap();
    VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).unwrap()
}

/// Values that transformers and PEFT computed.
struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn of(name: &str) -> Self {
        let path = fixture(name).join("expected.safetensors");
        Self(safetensors::load(path, &Device::Cpu).unwrap())
    }

    fn ids(&self) -> Tensor {
        self.0["ids"].to_dtype(DType::U32).unwrap()
    }

    fn mask(&self) -> &Tensor {
        &self.0["mask"]
    }

    /// The places of the tokens that are not padding, in the flattened batch; `shift` of each row's last ones are left out.
    fn places(&self, shift: usize) -> Vec<u32> {
        let rows: Vec<Vec<i64>> = self.mask().to_vec2().unwrap();
        let width = rows[0].len();
        let tokens = |(row, mask): (usize, &Vec<i64>)| {
            let count = mask.iter().sum::<i64>() as usize - shift;
            (0..count).map(move |token| (row * width + token) as u32)
        };
        rows.iter().enumerate().flat_map(tokens).collect()
    }

    /// Compares logits, loss and gradients. The label of a token is the one `shift` places later.
    fn check(&self, logits: &Tensor, shift: usize, adapter: &Adapter) {
        let rows = |tensor: &Tensor, places: &[u32]| {
            let flat = tensor.flatten_to(1).unwrap();
            flat.index_select(&Tensor::new(places, &Device::Cpu).unwrap(), 0).unwrap()
        };
        let error =
            largest(&(rows(logits, &self.places(0)) - rows(&self.0["logits"], &self.places(0))).unwrap());
        assert!(error < 2e-5, "logits differ by {error:e}");

        let places = self.places(shift);
        let labels: Vec<u32> = places.iter().map(|place| place + shift as u32).collect();
        let loss = cross_entropy(
            &rows(logits, &places),
            &rows(&self.ids().unsqueeze(2).unwrap(), &labels).flatten_all().unwrap(),
        );
        let loss = loss.unwrap();
        let error = largest(&(&loss - &self.0["loss"]).unwrap());
        assert!(error < 1e-5, "the loss differs by {error:e}");

        let gradients = loss.backward().unwrap();
        let parameters = adapter.parameters();
        assert_eq!(parameters.len(), self.0.keys().filter(|name| name.starts_with("gradient.")).count());
        for (name, parameter) in parameters {
            let gradient = gradients.get(&parameter).unwrap_or_else(|| panic!("{name} has no gradient"));
            let expected = &self.0[&format!("gradient.{name}")];
            let error = norm(&(gradient - expected).unwrap()) / norm(expected);
            assert!(error < 1e-4, "{name}: the gradient differs by {error:e} of its norm");
        }
    }
}

fn largest(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn norm(tensor: &Tensor) -> f32 {
    tensor.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
}

fn training() -> ForwardContext {
    ForwardContext::training([1, 2])
}

/// Saves the adapter and its logits for `check_in_peft.py`, and opens it again: the same bits.
fn keep(name: &str, adapter: &Adapter, logits: &Tensor) -> LoraBuilder {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("TRAINABLE_NN_KEEP").map_or(temporary.path().to_owned(), PathBuf::from);
    let folder = root.join(name);
    adapter.save(&folder).unwrap();
    let logits = HashMap::from([("logits", logits.clone())]);
    safetensors::save(&logits, folder.join("logits.safetensors")).unwrap();
    LoraBuilder::from_pretrained(&folder).unwrap()
}

/// Moves every parameter a little, so that it is no longer what PEFT made.
fn change(adapter: &Adapter) {
    for parameter in adapter.parameters().values() {
        parameter.set(&parameter.as_tensor().affine(1.5, 0.01).unwrap().detach()).unwrap();
    }
}

#[test]
fn bert_computes_what_transformers_and_peft_compute() {
    let (expected, config): (_, bert::Config) = (Expected::of("bert"), config("bert"));
    let lora = LoraBuilder::from_pretrained(fixture("bert/adapter")).unwrap();
    let load = |lora| weights("bert").build(lora, |vb| bert::BertForMaskedLM::load(vb, &config)).unwrap();
    let (model, lora) = load(lora);
    let adapter = lora.finish().unwrap();
    let ctx = enter(training());
    expected.check(&model.forward_t(&expected.ids(), expected.mask(), true).unwrap(), 0, &adapter);
    drop(ctx);

    change(&adapter);
    let logits = model.forward_t(&expected.ids(), expected.mask(), false).unwrap();
    let (again, lora) = load(keep("bert", &adapter, &logits));
    lora.finish().unwrap();
    let reopened = again.forward_t(&expected.ids(), expected.mask(), false).unwrap();
    assert_eq!(largest(&(reopened - logits).unwrap()), 0.0);
}

#[test]
fn qwen2_computes_what_transformers_and_peft_compute() {
    let (expected, config): (_, qwen2::Config) = (Expected::of("qwen2"), config("qwen2"));
    let lora = LoraBuilder::from_pretrained(fixture("qwen2/adapter")).unwrap();
    let load = |lora| weights("qwen2").build(lora, |vb| qwen2::ModelForCausalLM::new(&config, vb)).unwrap();
    let (mut model, lora) = load(lora);
    let adapter = lora.finish().unwrap();
    let ctx = enter(training());
    // Padding is on the right, so that no token sees it.
    expected.check(&model.forward(&expected.ids(), 0).unwrap(), 1, &adapter);
    drop(ctx);

    change(&adapter);
    model.clear_kv_cache();
    let logits = model.forward(&expected.ids(), 0).unwrap();
    let (mut again, lora) = load(keep("qwen2", &adapter, &logits));
    lora.finish().unwrap();
    let reopened = again.forward(&expected.ids(), 0).unwrap();
    assert_eq!(largest(&(reopened - logits).unwrap()), 0.0);
}

#[test]
fn qwen2_decodes_with_its_cache_what_it_computes_at_once() {
    let config: qwen2::Config = config("qwen2");
    let mut model = qwen2::ModelForCausalLM::new(&config, weights("qwen2")).unwrap();
    let ids = Expected::of("qwen2").ids();
    let at_once = model.forward(&ids, 0).unwrap();
    model.clear_kv_cache();
    for token in 0..ids.dim(1).unwrap() {
        let logits = model.forward(&ids.narrow(1, token, 1).unwrap(), token).unwrap();
        let error = largest(&(logits - at_once.narrow(1, token, 1).unwrap()).unwrap());
        assert!(error < 2e-5, "token {token}: {error:e}");
    }
}
