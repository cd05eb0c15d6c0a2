//! Logits, losses, gradients and adapters against transformers 5.23, PEFT 0.21 and torch's autograd.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../git-model/tests/common/cuts.rs"]
mod cuts;

use blip_model::{CaptionModel as _, LoadOptions};
use candle_core::{DType, Device, Tensor};
use common::{Golden, fixture, fixture_json, load, max_error, norm_error, on_device};
use peft_lora::LoraBuilder;
use train_ops::{ForwardContext, FrozenBuilder, TrainableBuilder};

/// Rows of `(batch, text, _)` that hold real tokens.
fn real_positions(golden: &Golden, tensor: &Tensor) -> Tensor {
    let mask: Vec<i64> = golden.tensor("attention_mask").flatten_all().unwrap().to_vec1().unwrap();
    let positions: Vec<u32> = (0u32..).zip(mask).filter(|(_, real)| *real > 0).map(|(i, _)| i).collect();
    let rows = tensor.reshape(((), tensor.dims()[2])).unwrap();
    rows.index_select(&Tensor::new(positions, tensor.device()).unwrap(), 0).unwrap()
}

fn agree(what: &str, loss: f64, expected: f64) {
    assert!((loss - expected).abs() < 1e-5 * expected, "{what}: loss {loss}, expected {expected}");
}

#[test]
fn logits_and_losses_agree_with_transformers_for_tied_and_untied_heads() {
    for case in ["tied", "wide"] {
        let golden = Golden::load(case);
        let (_dir, checkpoint) = golden.source().open();
        let model = load(&checkpoint, &mut FrozenBuilder, &on_device());
        let ctx = ForwardContext::inference();
        let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
        let error = max_error(&features.get(0).unwrap(), golden.tensor("vision_features"));
        assert!(error < 2e-5, "{case}: features differ by {error:e}");

        let hidden_states = model.hidden_states(&features, &golden.input_ids(), &ctx).unwrap();
        let logits = real_positions(&golden, &model.logits(&hidden_states, &ctx).unwrap());
        let error = max_error(&logits, &real_positions(&golden, golden.tensor("logits")));
        assert!(error < 2e-5, "{case}: logits differ by {error:e} of the largest");

        // The case `wide` has a label smoothing in its configuration.
        let (loss, targets) = model.loss(&features, &golden.input_ids(), &golden.labels(), &ctx).unwrap();
        assert_eq!(targets as u64, golden.facts["target_tokens"].as_u64().unwrap());
        let loss = f64::from(loss.to_scalar::<f32>().unwrap()) / targets as f64;
        agree(case, loss, golden.facts["loss"].as_f64().unwrap());
    }
}

/// With gradient checkpointing and without: text adapters, adapters in both towers, and those of `all-linear`, which includes
/// the head.
#[test]
fn gradients_of_every_lora_a_and_lora_b_agree_with_autograd() {
    for gradient_checkpointing in [false, true] {
        let options = LoadOptions { gradient_checkpointing, ..on_device() };
        for (case, kind) in [("tied", "both"), ("wide", "text"), ("wide", "all")] {
            let golden = Golden::load(case);
            let (_dir, checkpoint) = golden.source().open();
            let (model, adapter) = golden.adapted(&checkpoint, kind, &options);
            let (loss, gradients) = golden.loss_and_gradients(&model, &adapter.parameters());
            agree(&format!("{case} {kind}"), loss, golden.facts[kind]["loss"].as_f64().unwrap());
            let expected = golden.gradients(kind);
            assert_eq!(expected.len(), gradients.len());
            for (key, expected) in expected {
                let error = norm_error(&gradients[&key], expected);
                assert!(error < 1e-4, "{case} {kind}: gradient of {key} differs by {error:e} of its norm");
            }
        }
    }
}

/// With weights in bf16, and on a GPU with activations in bf16 too.
#[test]
fn gradients_in_bf16_are_close_to_those_of_autograd_in_f32() {
    let options = LoadOptions { dtype: DType::BF16, ..on_device() };
    for (case, kind) in [("tied", "both"), ("wide", "text"), ("wide", "all")] {
        let golden = Golden::load(case);
        let (_dir, checkpoint) = golden.source().open();
        let (model, adapter) = golden.adapted(&checkpoint, kind, &options);
        let (loss, gradients) = golden.loss_and_gradients(&model, &adapter.parameters());
        let expected = golden.facts[kind]["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 5e-3 * expected, "{case} {kind}: loss {loss}, expected {expected}");
        for (key, expected) in golden.gradients(kind) {
            let error = norm_error(&gradients[&key], expected);
            assert!(error < 8e-2, "{case} {kind}: gradient of {key} differs by {error:e} of its norm");
        }
    }
}

#[test]
fn gradients_of_full_fine_tuning_agree_with_autograd() {
    let golden = Golden::load("tied");
    let (_dir, checkpoint) = golden.source().open();
    let mut builder = TrainableBuilder::new();
    let model = load(&checkpoint, &mut builder, &on_device());
    let parameters = builder.finish();
    let norms = golden.facts["full"].as_object().unwrap();
    assert_eq!(parameters.keys().collect::<Vec<_>>(), norms.keys().collect::<Vec<_>>());
    let (_, gradients) = golden.loss_and_gradients(&model, &parameters);
    for (name, expected) in norms {
        let squares = gradients[name].sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let (norm, expected) = (f64::from(squares).sqrt(), expected.as_f64().unwrap());
        // The bias of keys has no effect on attention: its gradient is rounding noise on both sides.
        assert!((norm - expected).abs() < 1e-4 * expected + 1e-6, "{name}: {norm}, expected {expected}");
    }
}

#[test]
fn an_adapter_that_peft_saved_opens_and_is_saved_as_it_was() {
    let golden = Golden::load("tied");
    let (_dir, checkpoint) = golden.source().open();
    let mut builder = LoraBuilder::from_pretrained(fixture("golden_adapter")).unwrap();
    let model = load(&checkpoint, &mut builder, &on_device());
    let adapter = builder.finish().unwrap();
    let (loss, _) = golden.loss_and_gradients(&model, &adapter.parameters());
    agree("PEFT's adapter", loss, fixture_json("golden_adapter/loss.json")["loss"].as_f64().unwrap());

    let saved = tempfile::tempdir().unwrap();
    adapter.save(saved.path()).unwrap();
    let [ours, theirs] = [saved.path().to_owned(), fixture("golden_adapter")].map(|dir| {
        candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &Device::Cpu).unwrap()
    });
    assert_eq!(ours.len(), theirs.len());
    for (key, theirs) in theirs {
        assert_eq!(max_error(&ours[&key], &theirs), 0.0, "{key}");
    }
}

/// Frozen parts cost no backward pass: with text adapters alone, features that are computed in a training pass track no
/// gradient.
#[test]
fn a_frozen_encoder_leaves_no_graph() {
    let golden = Golden::load("wide");
    let (_dir, checkpoint) = golden.source().open();
    let (model, _) = golden.adapted(&checkpoint, "text", &on_device());
    let ctx = ForwardContext::training(vec![0; golden.pixel_values().dim(0).unwrap()]);
    assert!(!model.encode_images(&golden.pixel_values(), &ctx).unwrap().track_op());
}

/// All layers use the encoder's states; the tied head uses the word embeddings too.
#[test]
fn gradients_of_cut_graphs_have_the_bits_of_whole_ones() {
    if !common::device().is_cpu() {
        return;
    }
    let golden = Golden::load("tied");
    let (_dir, checkpoint) = golden.source().open();
    for gradient_checkpointing in [false, true] {
        let mut builder = TrainableBuilder::new();
        let options = LoadOptions { gradient_checkpointing, ..LoadOptions::default() };
        let model = load(&checkpoint, &mut builder, &options);
        let pixels = golden.pixel_values();
        let loss = |ctx: &ForwardContext| {
            let features = model.encode_images(&pixels, ctx).unwrap();
            model.loss(&features, &golden.input_ids(), &golden.labels(), ctx).unwrap()
        };
        let cuts = cuts::compare_cut_gradients(&builder.finish(), pixels.dim(0).unwrap(), loss);
        assert!(cuts > 4, "{cuts} cuts");
    }
}
