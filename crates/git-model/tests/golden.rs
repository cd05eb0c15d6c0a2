//! Logits, losses and gradients against transformers and torch's autograd, in the versions of
//! fixtures/requirements.txt.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/cuts.rs"]
mod cuts;

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};
use common::adapters::GivenAdapters;
use common::{Golden, max_error, norm_error};
use git_model::{CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions};
use train_ops::{ForwardContext, FrozenBuilder, TrainableBuilder};

const CASES: [&str; 5] = ["tiny", "small", "video", "tied", "wide"];

fn checkpoint(golden: &Golden) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    golden.checkpoint().write(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

fn on_device() -> LoadOptions {
    LoadOptions { device: common::device(), ..LoadOptions::default() }
}

fn input_ids(golden: &Golden) -> Tensor {
    let ids = golden.tensor("input_ids").to_dtype(candle_core::DType::U32).unwrap();
    ids.to_device(&common::device()).unwrap()
}

fn labels(golden: &Golden) -> Vec<Vec<i64>> {
    golden.tensor("labels").to_vec2().unwrap()
}

/// Rows of `(batch, text, _)` that hold real tokens.
fn real_positions(golden: &Golden, tensor: &Tensor) -> Tensor {
    let mask = golden.tensor("attention_mask").flatten_all().unwrap();
    let mask: Vec<f32> = mask.to_dtype(candle_core::DType::F32).unwrap().to_vec1().unwrap();
    let positions: Vec<u32> = (0u32..).zip(mask).filter(|(_, real)| *real > 0.0).map(|(i, _)| i).collect();
    let width = tensor.dims()[2];
    let rows = tensor.reshape(((), width)).unwrap();
    rows.index_select(&Tensor::new(positions, tensor.device()).unwrap(), 0).unwrap()
}

#[test]
fn logits_agree_with_transformers_on_every_kind_of_checkpoint() {
    for case in CASES {
        let golden = Golden::load(case);
        let (_dir, checkpoint) = checkpoint(&golden);
        let model = GitForCausalLm::load_with(&checkpoint, &mut FrozenBuilder, &on_device()).unwrap();
        let ctx = ForwardContext::inference();
        let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
        let agree = |name: &str, actual: &Tensor| {
            let expected = golden.tensor(name);
            let first = actual.get(0).unwrap().narrow(0, 0, expected.dim(0).unwrap()).unwrap();
            let error = max_error(&first, expected);
            assert!(error < 2e-5, "{case}: {name} differ by {error:e}");
        };
        // A video's features are recorded without the temporal embeddings that encode_images() adds.
        if case != "video" {
            agree("vision_features", &features);
        }
        agree("projected", &model.project(&features, &ctx).unwrap());

        let hidden_states = model.hidden_states(&features, &input_ids(&golden), &ctx).unwrap();
        agree("hidden", &hidden_states);
        let logits = model.logits(&hidden_states, &ctx).unwrap();
        let expected = golden.tensor("logits");
        let error = max_error(&real_positions(&golden, &logits), &real_positions(&golden, expected));
        assert!(error < 2e-5, "{case}: logits differ by {error:e} of the largest");

        let (loss, targets) = model.loss(&features, &input_ids(&golden), &labels(&golden), &ctx).unwrap();
        assert_eq!(targets as u64, golden.facts["target_tokens"].as_u64().unwrap());
        let loss = f64::from(loss.to_scalar::<f32>().unwrap()) / targets as f64;
        let expected = golden.facts["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-5 * expected, "{case}: loss {loss}, expected {expected}");
    }
}

fn adapter_gradients_agree(case: &str, kind: &str, dtype: DType, [of_loss, of_gradient]: [f64; 2]) {
    let golden = Golden::load(case);
    let (_dir, checkpoint) = checkpoint(&golden);
    let facts = &golden.facts[kind];
    let variables: BTreeMap<String, Var> = golden
        .adapter(kind)
        .iter()
        .map(|(key, value)| {
            (key.clone(), Var::from_tensor(&value.to_device(&common::device()).unwrap()).unwrap())
        })
        .collect();
    let weights = variables.iter().map(|(key, variable)| (key.clone(), variable.as_tensor().clone()));
    let mut builder = GivenAdapters::new(facts, weights.collect());
    let options = LoadOptions { hidden_dropout: Some(0.0), dtype, ..on_device() };
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    let batch = golden.pixel_values().dim(0).unwrap();
    let ctx = ForwardContext::training(vec![0; batch]);
    let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
    let (loss, targets) = model.loss(&features, &input_ids(&golden), &labels(&golden), &ctx).unwrap();
    let mean = (loss / targets as f64).unwrap();
    let expected = facts["loss"].as_f64().unwrap();
    let value = f64::from(mean.to_scalar::<f32>().unwrap());
    assert!((value - expected).abs() < of_loss * expected, "{case}: loss {value}, expected {expected}");

    let grads = mean.backward().unwrap();
    let expected = golden.gradients(kind);
    assert_eq!(expected.len(), variables.len());
    for (key, expected) in expected {
        let gradient = grads.get(&variables[key]).unwrap_or_else(|| panic!("{case}: {key} has no gradient"));
        let error = norm_error(gradient, expected);
        assert!(error < of_gradient, "{case}: gradient of {key} differs by {error:e} of its norm");
    }
}

const F32: [f64; 2] = [1e-5, 1e-4];

#[test]
fn gradients_of_every_text_adapter_agree_with_autograd() {
    adapter_gradients_agree("tiny", "lora", DType::F32, F32);
    adapter_gradients_agree("tied", "lora", DType::F32, F32);
}

#[test]
fn gradients_of_adapters_in_both_towers_agree_with_autograd() {
    adapter_gradients_agree("tiny", "vision_lora", DType::F32, F32);
}

/// With weights in bf16, and on a GPU with activations in bf16 too.
#[test]
fn gradients_in_bf16_are_close_to_those_of_autograd_in_f32() {
    for (case, kind) in [("tiny", "lora"), ("tied", "lora"), ("tiny", "vision_lora")] {
        adapter_gradients_agree(case, kind, DType::BF16, [5e-3, 8e-2]);
    }
}

#[test]
fn gradients_of_full_fine_tuning_agree_with_autograd() {
    for case in ["tiny", "tied", "video"] {
        let golden = Golden::load(case);
        let (_dir, checkpoint) = checkpoint(&golden);
        let mut builder = TrainableBuilder::new();
        let options = LoadOptions { hidden_dropout: Some(0.0), ..on_device() };
        let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
        let parameters = builder.finish();
        let ctx = ForwardContext::training(vec![0; golden.pixel_values().dim(0).unwrap()]);
        let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
        let (loss, targets) = model.loss(&features, &input_ids(&golden), &labels(&golden), &ctx).unwrap();
        let grads = (loss / targets as f64).unwrap().backward().unwrap();
        for (name, norm) in golden.facts["full"]["norms"].as_object().unwrap() {
            let gradient =
                grads.get(&parameters[name]).unwrap_or_else(|| panic!("{case}: {name} has no gradient"));
            let squares = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let (norm, expected) = (f64::from(squares).sqrt(), norm.as_f64().unwrap());
            // The bias of keys has no effect on attention: its gradient is rounding noise on both sides.
            assert!(
                (norm - expected).abs() < 1e-4 * expected + 1e-6,
                "{case}: {name}: {norm}, expected {expected}"
            );
        }
        for (name, expected) in golden.gradients("full") {
            if name.ends_with("key.bias") || name.ends_with("k_proj.bias") {
                continue;
            }
            let error = norm_error(grads.get(&parameters[name]).unwrap(), expected);
            assert!(error < 1e-4, "{case}: gradient of {name} differs by {error:e} of its norm");
        }
    }
}

/// Layers, the patches before them and the head after them are segments. A video's pictures use the same layers.
#[test]
fn gradients_of_cut_graphs_have_the_bits_of_whole_ones() {
    if !common::device().is_cpu() {
        return;
    }
    for case in ["tiny", "tied", "video"] {
        let golden = Golden::load(case);
        let (_dir, checkpoint) = checkpoint(&golden);
        for gradient_checkpointing in [false, true] {
            let mut builder = TrainableBuilder::new();
            let options = LoadOptions { gradient_checkpointing, ..LoadOptions::default() };
            let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
            let pixels = golden.pixel_values();
            let loss = |ctx: &ForwardContext| {
                let features = model.encode_images(&pixels, ctx).unwrap();
                model.loss(&features, &input_ids(&golden), &labels(&golden), ctx).unwrap()
            };
            let cuts = cuts::compare_cut_gradients(&builder.finish(), pixels.dim(0).unwrap(), loss);
            let config = model.config();
            let pictures = if case == "video" { pixels.dim(1).unwrap() } else { 1 };
            let layers = pictures * config.vision_config.num_hidden_layers + config.num_hidden_layers;
            assert_eq!(cuts, layers + 1, "{case}");
        }
    }
}
