//! Properties that GIT has by construction.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, IndexOp, Tensor};
use common::Golden;
use common::models::{list, logits, model};
use git_model::{CaptionCheckpoint as _, CaptionModel as _, Checkpoint, GitForCausalLm, LoadOptions};
use train_ops::{ForwardContext, FrozenBuilder, Int8Builder, TrainableBuilder, sample_key};

#[test]
fn a_token_changes_no_logits_before_it_and_all_from_it_on() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let features = features.narrow(0, 0, 1).unwrap();
    let ids = |third: u32| Tensor::new(&[[101u32, 7, third, 9, 10]], features.device()).unwrap();
    let (one, other) = (logits(&model, &features, &ids(5)), logits(&model, &features, &ids(6)));
    for position in 0..5 {
        let (one, other) = (list(&one.i((0, position)).unwrap()), list(&other.i((0, position)).unwrap()));
        assert_eq!(one == other, position < 2, "position {position}");
    }
}

#[test]
fn the_image_changes_the_logits_at_every_position() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let ids = Tensor::new(&[[101u32, 7, 8], [101, 7, 8]], features.device()).unwrap();
    let logits = logits(&model, &features.narrow(0, 0, 2).unwrap(), &ids);
    for position in 0..3 {
        assert_ne!(list(&logits.i((0, position)).unwrap()), list(&logits.i((1, position)).unwrap()));
    }
}

#[test]
fn a_batch_equals_its_rows_one_by_one_in_logits_and_loss() {
    let (golden, model) = model("tiny");
    let ctx = ForwardContext::inference();
    let pixels = golden.pixel_values();
    let ids = golden.tensor("input_ids").to_dtype(DType::U32).unwrap();
    let labels: Vec<Vec<i64>> = golden.tensor("labels").to_vec2().unwrap();
    let features = model.encode_images(&pixels, &ctx).unwrap();
    let batch = logits(&model, &features, &ids);
    let (batch_loss, batch_targets) = model.loss(&features, &ids, &labels, &ctx).unwrap();
    let (mut loss, mut targets) = (0.0, 0);
    for (row, labels) in labels.iter().enumerate() {
        let length = labels.iter().filter(|label| **label >= 0).count();
        let features = model.encode_images(&pixels.narrow(0, row, 1).unwrap(), &ctx).unwrap();
        let ids = ids.i((row..row + 1, 0..length)).unwrap();
        let single = list(&logits(&model, &features, &ids));
        let of_batch = list(&batch.i((row, 0..length)).unwrap());
        let largest = single.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(single.iter().zip(&of_batch).all(|(a, b)| (a - b).abs() <= 1e-6 * largest), "row {row}");
        let (row_loss, row_targets) =
            model.loss(&features, &ids, &[labels[..length].to_vec()], &ctx).unwrap();
        loss += row_loss.to_scalar::<f32>().unwrap();
        targets += row_targets;
    }
    assert_eq!(targets, batch_targets);
    assert!((loss - batch_loss.to_scalar::<f32>().unwrap()).abs() < 1e-6 * loss);
}

#[test]
fn padding_changes_no_loss_and_no_dropout() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let features = features.narrow(0, 0, 1).unwrap();
    let loss = |padding: usize| {
        let mut ids = vec![101u32, 7, 8, 102];
        let mut labels: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        ids.resize(4 + padding, 0);
        labels.resize(4 + padding, -100);
        let ids = Tensor::from_vec(ids, (1, 4 + padding), features.device()).unwrap();
        let ctx = ForwardContext::training([sample_key(3, 1, 4)]);
        let (loss, targets) = model.loss(&features, &ids, &[labels], &ctx).unwrap();
        assert_eq!(targets, 3);
        loss.to_scalar::<f32>().unwrap()
    };
    let without = loss(0);
    assert!((loss(5) - without).abs() < 1e-6 * without, "{} and {without}", loss(5));
}

#[test]
fn dropout_acts_in_training_alone_and_differs_between_steps() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let features = features.narrow(0, 0, 1).unwrap();
    let ids = Tensor::new(&[[101u32, 7, 8, 102]], features.device()).unwrap();
    let hidden = |ctx: &ForwardContext| list(&model.hidden_states(&features, &ids, ctx).unwrap());
    let step = |step| ForwardContext::training([sample_key(3, step, 0)]);
    assert_eq!(hidden(&ForwardContext::inference()), hidden(&ForwardContext::inference()));
    assert_eq!(hidden(&step(1)), hidden(&step(1)));
    assert_ne!(hidden(&step(1)), hidden(&ForwardContext::inference()));
    assert_ne!(hidden(&step(1)), hidden(&step(2)));
}

#[test]
fn labels_are_shifted_exactly_once() {
    // A head that ignores its input and always predicts token 7.
    let golden = Golden::load("tiny");
    let mut tensors = golden.checkpoint().tensors();
    let zeros = tensors["output.weight"].zeros_like().unwrap();
    tensors.insert("output.weight".into(), zeros);
    let bias: Vec<f32> = (0..128).map(|id| if id == 7 { 1e4 } else { 0.0 }).collect();
    tensors.insert("output.bias".into(), Tensor::new(bias, &candle_core::Device::Cpu).unwrap());
    let dir = tempfile::tempdir().unwrap();
    golden.checkpoint().write(dir.path());
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    let model = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    let ctx = ForwardContext::inference();
    let features = model.encode_images(&golden.pixel_values().narrow(0, 0, 1).unwrap(), &ctx).unwrap();
    let loss = |caption: [u32; 4]| {
        let labels = [caption.map(i64::from).to_vec()];
        let ids = Tensor::new(&[caption], model.device()).unwrap();
        let (loss, targets) = model.loss(&features, &ids, &labels, &ctx).unwrap();
        assert_eq!(targets, 3);
        loss.to_scalar::<f32>().unwrap()
    };
    assert_eq!(loss([101, 7, 7, 7]), 0.0, "without a shift, the start token would be a target");
    assert_eq!(loss([101, 9, 7, 7]), 1e4, "with two shifts, the token after the start would be none");
}

#[test]
fn logits_of_8_bit_weights_are_within_3_percent_of_the_norm() {
    for case in ["tiny", "small", "wide"] {
        let (golden, exact) = model(case);
        let dir = tempfile::tempdir().unwrap();
        golden.checkpoint().write(dir.path());
        let int8 = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut Int8Builder).unwrap();
        let ids = golden.tensor("input_ids").to_dtype(DType::U32).unwrap();
        let logits = |model: &GitForCausalLm| {
            let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
            logits(model, &features, &ids)
        };
        let error = common::norm_error(&logits(&int8), &logits(&exact));
        assert!(error < 0.03, "{case}: {error}");
        assert!(error > 1e-5, "{case}: {error}: are the weights quantised at all?");
    }
}

/// From the same hidden states, so that all differences come from the head.
#[test]
fn weights_of_16_and_8_bits_are_those_of_a_tied_head_too() {
    let (golden, exact) = model("tied");
    let dir = tempfile::tempdir().unwrap();
    golden.checkpoint().write(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.tensors().tied());
    let options = LoadOptions { dtype: DType::BF16, ..LoadOptions::default() };
    let bf16 = GitForCausalLm::load_with(&checkpoint, &mut FrozenBuilder, &options).unwrap();
    let int8 = GitForCausalLm::load(&checkpoint, &mut Int8Builder).unwrap();
    let ctx = ForwardContext::inference();
    let features = exact.encode_images(&golden.pixel_values(), &ctx).unwrap();
    let ids = golden.tensor("input_ids").to_dtype(DType::U32).unwrap();
    let hidden_states = exact.hidden_states(&features, &ids, &ctx).unwrap();
    let expected = exact.logits(&hidden_states, &ctx).unwrap();
    for (model, most) in [(bf16, 5e-3), (int8, 0.02)] {
        let error = common::norm_error(&model.logits(&hidden_states, &ctx).unwrap(), &expected);
        assert!(error > 1e-4 && error < most, "{error}");
    }
}

#[test]
fn frames_that_a_model_does_not_take_are_refused_with_what_it_takes() {
    for (case, frames, expected) in [
        (
            "tiny",
            1,
            "shape (batch, channels, size, size), as this model takes single pictures, got [1, 1, 3, ",
        ),
        ("video", 4, "shape 1 to 3 frames in the second dimension, got [1, 4, 3, "),
    ] {
        let (golden, model) = model(case);
        let size = *golden.pixel_values().dims().last().unwrap();
        let video = Tensor::zeros((1, frames, 3, size, size), DType::F32, &candle_core::Device::Cpu).unwrap();
        let error = model.encode_images(&video, &ForwardContext::inference()).unwrap_err().to_string();
        assert!(error.contains(expected), "{case}: {error}");
    }
}

/// Gradients of a loss with dropout, of every trainable parameter by name.
fn gradients(case: &str, gradient_checkpointing: bool) -> BTreeMap<String, Vec<f32>> {
    let golden = Golden::load(case);
    let dir = tempfile::tempdir().unwrap();
    golden.checkpoint().write(dir.path());
    let mut builder = TrainableBuilder::new();
    let options = LoadOptions { hidden_dropout: Some(0.2), gradient_checkpointing, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    let ids = golden.tensor("input_ids").to_dtype(DType::U32).unwrap();
    let keys: Vec<u64> = (0..ids.dim(0).unwrap() as u64).map(|sample| sample_key(3, 1, sample)).collect();
    let ctx = ForwardContext::training(keys);
    let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
    let (loss, _) = model.loss(&features, &ids, &golden.tensor("labels").to_vec2().unwrap(), &ctx).unwrap();
    let store = loss.backward().unwrap();
    let parameters = builder.finish();
    parameters.into_iter().map(|(name, var)| (name, list(store.get(&var).unwrap()))).collect()
}

#[test]
fn gradient_checkpointing_changes_no_bit_of_any_gradient() {
    for case in ["tiny", "video"] {
        let (plain, checkpointed) = (gradients(case, false), gradients(case, true));
        assert!(plain.values().flatten().any(|gradient| *gradient != 0.0));
        for (name, plain) in &plain {
            assert_eq!(plain, &checkpointed[name], "{case}: {name}");
        }
    }
}
