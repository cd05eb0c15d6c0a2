//! BLIP for questions against transformers 5.23, PEFT 0.21 and torch's autograd; see `fixtures/make_questions.py`. The golden tests
//! run on the device `TEST_DEVICE`.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../git-model/tests/common/cuts.rs"]
mod cuts;

use std::ops::ControlFlow;

use blip_model::{
    BlipForConditionalGeneration, BlipForQuestionAnswering, BlipTask, CaptionCheckpoint as _, CaptionModel,
    GenerationConfig, LoadOptions,
};
use candle_core::{DType, Tensor};
use caption_model::TextBatch;
use common::{Golden, Source, device, fixture_json, ids, max_error, norm_error, on_device, some};
use train_ops::{DeviceGraph, ForwardContext, FrozenBuilder, KeyLengths, Run, TrainableBuilder};

const CASE: &str = "questions";

/// The rows of `(batch, tokens, _)` that are not padding, by the numbers of tokens.
fn real(tensor: &Tensor, lengths: &[usize]) -> Tensor {
    let rows = lengths
        .iter()
        .enumerate()
        .map(|(row, length)| tensor.get(row).unwrap().narrow(0, 0, *length).unwrap());
    Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
}

fn lengths(tensor: &Tensor) -> Vec<usize> {
    tensor.to_vec1::<i64>().unwrap().into_iter().map(|length| length as usize).collect()
}

#[test]
fn states_logits_and_loss_agree_with_transformers() {
    let golden = Golden::load(CASE);
    let (_dir, checkpoint) = golden.source().open();
    assert_eq!(checkpoint.config().task(), BlipTask::Questions);
    let model = BlipForQuestionAnswering::load_with(&checkpoint, &mut FrozenBuilder, &on_device()).unwrap();
    let ctx = ForwardContext::inference();
    let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
    let error = max_error(&features.get(0).unwrap(), golden.tensor("vision_features"));
    assert!(error < 2e-5, "features differ by {error:e}");

    let of_questions = lengths(golden.tensor("lengths"));
    let of_answers = lengths(&golden.tensor("answer_mask").sum(1).unwrap());
    let key_lengths = KeyLengths::new(of_questions.clone());
    let questions = golden.ids("questions");
    let states = model.encode_questions(&features, &questions, Some(&key_lengths), &ctx).unwrap();
    let expected = real(golden.tensor("question_states"), &of_questions);
    let error = max_error(&real(&states, &of_questions), &expected);
    assert!(error < 2e-5, "question states differ by {error:e} of the largest");

    let hidden_states = model.hidden_states(&states, Some(&key_lengths), &golden.ids("answers"), &ctx);
    let logits = model.logits(&hidden_states.unwrap(), &ctx).unwrap();
    let error = max_error(&real(&logits, &of_answers), &real(golden.tensor("logits"), &of_answers));
    assert!(error < 2e-5, "logits differ by {error:e} of the largest");

    let (loss, targets) = model.loss(&features, &golden.input_ids(), &golden.labels(), &ctx).unwrap();
    assert_eq!(targets as u64, golden.facts["target_tokens"].as_u64().unwrap());
    let loss = f64::from(loss.to_scalar::<f32>().unwrap()) / targets as f64;
    let expected = golden.facts["loss"].as_f64().unwrap();
    assert!((loss - expected).abs() < 1e-5 * expected, "loss {loss}, expected {expected}");
}

/// Adapters of the text layers in question encoder and answer decoder, and of all linear layers.
#[test]
fn gradients_of_every_lora_a_and_lora_b_agree_with_autograd() {
    for gradient_checkpointing in [false, true] {
        let options = LoadOptions { gradient_checkpointing, ..on_device() };
        for kind in ["text", "all"] {
            let golden = Golden::load(CASE);
            let (_dir, checkpoint) = golden.source().open();
            let (model, adapter) = golden.adapted_with(kind, |builder| {
                BlipForQuestionAnswering::load_with(&checkpoint, builder, &options).unwrap()
            });
            let (loss, gradients) = golden.loss_and_gradients(&model, &adapter.parameters());
            let expected = golden.facts[kind]["loss"].as_f64().unwrap();
            assert!((loss - expected).abs() < 1e-5 * expected, "{kind}: loss {loss}, expected {expected}");
            let expected = golden.gradients(kind);
            assert_eq!(expected.len(), gradients.len());
            for (key, expected) in expected {
                let error = norm_error(&gradients[&key], expected);
                assert!(error < 1e-4, "{kind}: gradient of {key} differs by {error:e} of its norm");
            }
        }
    }
}

/// With weights in bf16, and on a GPU with activations in bf16 too.
#[test]
fn gradients_in_bf16_are_close_to_those_of_autograd_in_f32() {
    let options = LoadOptions { dtype: DType::BF16, ..on_device() };
    for kind in ["text", "all"] {
        let golden = Golden::load(CASE);
        let (_dir, checkpoint) = golden.source().open();
        let (model, adapter) = golden.adapted_with(kind, |builder| {
            BlipForQuestionAnswering::load_with(&checkpoint, builder, &options).unwrap()
        });
        let (loss, gradients) = golden.loss_and_gradients(&model, &adapter.parameters());
        let expected = golden.facts[kind]["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < 5e-3 * expected, "{kind}: loss {loss}, expected {expected}");
        for (key, expected) in golden.gradients(kind) {
            let error = norm_error(&gradients[&key], expected);
            assert!(error < 8e-2, "{kind}: gradient of {key} differs by {error:e} of its norm");
        }
    }
}

/// A batch and the same with its rows in the opposite order. The CPU has no graphs.
#[test]
fn a_recorded_pass_has_the_bits_of_a_launched_one_for_other_questions() {
    if device().is_cpu() {
        return;
    }
    for dtype in [DType::F32, DType::BF16] {
        let options = LoadOptions { dtype, ..on_device() };
        let golden = Golden::load(CASE);
        let (_dir, checkpoint) = golden.source().open();
        let (model, adapter) = golden.adapted_with("text", |builder| {
            BlipForQuestionAnswering::load_with(&checkpoint, builder, &options).unwrap()
        });
        let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
        let features = features.detach();
        let (mut ids, mut labels) = (golden.input_ids().to_vec2::<u32>().unwrap(), golden.labels());
        let batches = [(); 2].map(|()| {
            let batch = model.text_batch(&Tensor::new(ids.clone(), &device()).unwrap(), &labels, 8).unwrap();
            ids.reverse();
            labels.reverse();
            batch
        });
        assert_ne!(batches[0].lengths, batches[1].lengths);
        let pass = |text: &TextBatch, ctx: &ForwardContext| -> candle_core::Result<Vec<Tensor>> {
            let (loss, _) = model.text_loss(&features, text, 0.1, ctx).map_err(candle_core::Error::wrap)?;
            let store = loss.backward()?;
            let gradients = adapter.parameters();
            let gradients = gradients.values().map(|variable| store.get(variable).unwrap().clone());
            Ok(std::iter::once(loss.clone()).chain(gradients).collect())
        };
        let keys = |step: u64| {
            ForwardContext::training((0..ids.len() as u64).map(|row| 7 * step + row).collect::<Vec<_>>())
        };
        let work = |run| pass(&batches[usize::from(run == Run::Recorded)], &keys(0));
        let graph = DeviceGraph::record(&device(), work).unwrap();
        for (step, text) in (1..).zip(&batches) {
            let labels = text.shifted_labels().unwrap();
            let targets = labels.clone().padded_for(&device()).targets.len();
            let list = |results: &[Tensor]| -> Vec<Vec<f32>> {
                results.iter().map(|tensor| tensor.flatten_all().unwrap().to_vec1().unwrap()).collect()
            };
            let found = list(graph.replay(&keys(step), &text.numbers(labels, targets)).unwrap());
            assert_eq!(found, list(&pass(text, &keys(step)).unwrap()), "{dtype:?}, step {step}");
        }
    }
}

/// Some of them on a device that may be emulated, where there is no draft.
#[test]
fn answers_are_those_of_transformers_one_by_one_in_batches_and_with_a_draft() {
    let golden = fixture_json("golden_answers.json");
    let source = Source::new(&golden["checkpoint"]);
    let (_dir, checkpoint) = source.open();
    let model = checkpoint.load_model(&mut FrozenBuilder, &on_device()).unwrap();
    let draft = device().is_cpu().then(|| model.draft().unwrap());
    let start = checkpoint.tokens().start_token;
    let mut count = 0;
    for (case, facts) in golden["cases"].as_object().unwrap() {
        let config = match case.as_str() {
            "greedy" => GenerationConfig::default(),
            _ => GenerationConfig::recipe(),
        };
        for answer in some(facts["answers"].as_array().unwrap()) {
            let question = [vec![start], ids(&answer["question"])].concat();
            // The caption's ids are those of the question, and of the answer without its own start token.
            let expected = [question.clone(), ids(&answer["ids"])[1..].to_vec()].concat();
            let picture = source.picture(answer["picture"].as_u64().unwrap());
            let features = model.encode_images(&picture, &ForwardContext::inference()).unwrap();
            let generated = model.generate(&features, Some(&question), &config).unwrap();
            assert_eq!(generated[0].ids, expected, "{case}, picture {}", answer["picture"]);
            let mut newest = Vec::new();
            let on_token = &mut |progress: caption_model::Progress<'_>| {
                newest = progress.ids.to_vec();
                ControlFlow::Continue(())
            };
            let again =
                model.generate_with(&features, Some(&question), &config, draft.as_ref(), on_token).unwrap();
            assert_eq!(again, generated, "{case} with a draft, if there can be one");
            assert!(newest.starts_with(&question), "progress begins with the question");
            let other = model.encode_images(&source.picture(99), &ForwardContext::inference()).unwrap();
            let both = Tensor::cat(&[&other, &features], 0).unwrap();
            let in_batch = model.generate(&both, Some(&question), &config).unwrap();
            assert_eq!(in_batch[1], generated[0], "{case} in a batch");
            count += 1;
        }
    }
    assert_eq!(count, if device().is_cpu() { 50 } else { 2 });
}

#[test]
fn a_picture_without_a_question_is_refused() {
    let golden = Golden::load(CASE);
    let (_dir, checkpoint) = golden.source().open();
    assert!(checkpoint.architecture().needs_prompt);
    let model = BlipForQuestionAnswering::load_with(&checkpoint, &mut FrozenBuilder, &on_device()).unwrap();
    let ctx = ForwardContext::inference();
    let features = model.encode_images(&golden.pixel_values(), &ctx).unwrap();
    let start = checkpoint.tokens().start_token;
    for prompt in [None, Some(&[start][..])] {
        let error = model.generate(&features, prompt, &GenerationConfig::default()).unwrap_err().to_string();
        assert!(error.contains("answers questions"), "{error}");
    }
    let other_start = model.generate(&features, Some(&[101, 7]), &GenerationConfig::default());
    assert!(other_start.unwrap_err().to_string().contains(&start.to_string()));
    let plain = Tensor::new(&[[start, 7, 102]], &device()).unwrap();
    let one = features.narrow(0, 0, 1).unwrap();
    let error = model.loss(&one, &plain, &[vec![i64::from(start), 7, 102]], &ctx).unwrap_err().to_string();
    assert!(error.contains("row 0 of the batch"), "{error}");
}

#[test]
fn a_checkpoint_is_refused_by_the_model_of_the_other_task() {
    let (_dir, questions) = Golden::load(CASE).source().open();
    let error = BlipForConditionalGeneration::load(&questions, &mut FrozenBuilder).unwrap_err().to_string();
    assert!(error.contains("architectures is \"BlipForQuestionAnswering\""), "{error}");
    let (_dir, captions) = Golden::load("tied").source().open();
    let error = BlipForQuestionAnswering::load(&captions, &mut FrozenBuilder).unwrap_err().to_string();
    assert!(error.contains("only \"BlipForQuestionAnswering\" is supported"), "{error}");
}

/// The question's encoder uses the picture's states, and the answer's decoder those of the question.
#[test]
fn gradients_of_cut_graphs_have_the_bits_of_whole_ones() {
    if !device().is_cpu() {
        return;
    }
    let golden = Golden::load(CASE);
    let (_dir, checkpoint) = golden.source().open();
    let mut builder = TrainableBuilder::new();
    let model =
        BlipForQuestionAnswering::load_with(&checkpoint, &mut builder, &LoadOptions::default()).unwrap();
    let pixels = golden.pixel_values();
    let loss = |ctx: &ForwardContext| {
        let features = model.encode_images(&pixels, ctx).unwrap();
        model.loss(&features, &golden.input_ids(), &golden.labels(), ctx).unwrap()
    };
    let cuts = cuts::compare_cut_gradients(&builder.finish(), pixels.dim(0).unwrap(), loss);
    assert!(cuts > 6, "{cuts} cuts");
}
