//! Decoding steps as CUDA graphs, on the device `TEST_DEVICE`. The CPU has no graphs, and the tests show that it needs none.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use candle_core::{DType, Tensor};
use common::{Checkpoint as Golden, device, fixture_json};
use git_model::{
    Caption, CaptionDecoder as _, CaptionModel as _, Checkpoint, GenerationConfig, GitForCausalLm,
    LoadOptions,
};
use peft_lora::{Adapter, Bias, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, FrozenBuilder, FrozenLinear, LayerBuilder, LinearLayer, Shared};

/// The model of the golden checkpoint `image`, with graphs or without.
fn model(builder: &mut dyn LayerBuilder, dtype: DType, decoding_graphs: bool) -> GitForCausalLm {
    let dir = tempfile::tempdir().unwrap();
    Golden::new(&fixture_json("golden_generation.json")["checkpoints"]["image"]).write(dir.path());
    let options = LoadOptions { device: device(), dtype, decoding_graphs, ..LoadOptions::default() };
    GitForCausalLm::load_with(&Checkpoint::open(dir.path()).unwrap(), builder, &options).unwrap()
}

fn features(model: &GitForCausalLm, pictures: std::ops::Range<u64>) -> Tensor {
    let golden = fixture_json("golden_generation.json");
    let source = Golden::new(&golden["checkpoints"]["image"]);
    let pictures: Vec<_> = pictures.map(|picture| source.picture(picture)).collect();
    model.encode_images(&Tensor::cat(&pictures, 0).unwrap(), &ForwardContext::inference()).unwrap().detach()
}

fn graphs(model: &GitForCausalLm) -> usize {
    match model.decoding_graphs() {
        Some(graphs) => graphs.count(),
        None => 0,
    }
}

/// Searches of each kind: those that need the best logits, or all, of one sequence or several.
fn searches() -> [GenerationConfig; 4] {
    let greedy = GenerationConfig { max_new_tokens: 12, min_new_tokens: 6, ..GenerationConfig::default() };
    let beams = GenerationConfig { num_beams: 3, ..greedy.clone() };
    // A penalty needs all logits.
    let penalty = GenerationConfig { repetition_penalty: 1.3, ..greedy.clone() };
    // The best logits that may be forbidden become more with each step.
    let without_repetition = GenerationConfig { no_repeat_ngram_size: 2, ..beams.clone() };
    [greedy, beams, penalty, without_repetition]
}

fn same(found: &[Caption], expected: &[Caption], what: &str) {
    let list = |captions: &[Caption]| -> Vec<(Vec<u32>, u32)> {
        captions.iter().map(|caption| (caption.ids.clone(), caption.score.to_bits())).collect()
    };
    assert_eq!(list(found), list(expected), "{what}");
}

/// Calls with fewer pictures, with more, which bring larger caches, and with the first ones again.
#[test]
fn captions_and_scores_have_the_bits_of_launched_steps_in_calls_of_all_sizes() {
    for dtype in [DType::F32, DType::BF16] {
        let [recorded, launched] = [true, false].map(|graphs| model(&mut FrozenBuilder, dtype, graphs));
        for pictures in [0..2, 2..3, 1..4, 0..2] {
            let features = features(&recorded, pictures.clone());
            for (number, config) in searches().iter().enumerate() {
                let found = recorded.generate(&features, None, config).unwrap();
                let expected = launched.generate(&features, None, config).unwrap();
                same(&found, &expected, &format!("{dtype:?}, pictures {pictures:?}, search {number}"));
            }
        }
        assert_eq!(graphs(&recorded) > 0, !device().is_cpu(), "{dtype:?}");
        assert!(launched.decoding_graphs().is_none());
    }
}

/// A sequence of more than 32 tokens has a longer row in the table.
#[test]
fn captions_longer_than_a_row_of_the_table_go_on_in_another_graph() {
    let [recorded, launched] = [true, false].map(|graphs| model(&mut FrozenBuilder, DType::F32, graphs));
    let features = features(&recorded, 0..1);
    let most = recorded.tokens().max_length;
    assert!(most > 34, "{most} positions");
    let mut steps = [&recorded, &launched].map(|model| model.begin_decoding(&features, most).unwrap());
    for step in 0..36.min(most) {
        let token = recorded.tokens().start_token + step as u32 % 3;
        let [found, expected] = steps.each_mut().map(|decoding| decoding.append(&[token]).unwrap());
        assert_eq!(found, expected, "step {step}");
    }
    drop(steps);
    assert_eq!(graphs(&recorded), if device().is_cpu() { 0 } else { 2 });
}

/// The second of two decodings at the same time has no graphs, and its own caches.
#[test]
fn two_decodings_of_a_model_do_not_disturb_each_other() {
    let [recorded, launched] = [true, false].map(|graphs| model(&mut FrozenBuilder, DType::F32, graphs));
    let begin = |model, pictures| {
        let features = features(&recorded, pictures);
        GitForCausalLm::begin_decoding(model, &features, 8).unwrap()
    };
    let mut decodings =
        [begin(&recorded, 0..1), begin(&recorded, 1..2), begin(&launched, 0..1), begin(&launched, 1..2)];
    for step in 0..6 {
        let [a, b, of_first, of_second] = decodings.each_mut().map(|one| one.append(&[step + 1]).unwrap());
        assert_eq!((a, b), (of_first, of_second), "step {step}");
    }
}

/// As many graphs as numbers of best logits, rounded, and not one for each step.
#[test]
fn a_search_that_needs_more_logits_in_each_step_has_few_graphs() {
    let recorded = model(&mut FrozenBuilder, DType::F32, true);
    let features = features(&recorded, 0..1);
    let mut decoding = recorded.begin_decoding(&features, 20).unwrap();
    for step in 0..18 {
        decoding.append_for_best(&[1], 2 + step).unwrap();
    }
    drop(decoding);
    // 4, 8, 16 and 32; 2 occurs for the prompt only.
    assert_eq!(graphs(&recorded), if device().is_cpu() { 0 } else { 4 });
}

#[test]
fn a_step_beyond_the_slots_of_the_caches_is_an_error() {
    let model = model(&mut FrozenBuilder, DType::F32, true);
    let features = features(&model, 0..1);
    let mut decoding = model.begin_decoding(&features, 4).unwrap();
    for token in 1..5 {
        decoding.append(&[token]).unwrap();
    }
    let error = decoding.append(&[5]).unwrap_err().to_string();
    assert!(error.contains("5 slots"), "{error}");
}

/// Steps that read from the device cannot be recorded. They have the same results, and the model tells it once.
#[test]
fn steps_that_cannot_be_recorded_are_launched_and_the_model_says_why_once() {
    let shared = Arc::new(Shared::new(Tensor::new(&[1f32], &device()).unwrap()));
    let builder = &mut Shifting { shared, reads: true };
    let [recorded, launched] = [true, false].map(|graphs| model(builder, DType::F32, graphs));
    let features = features(&recorded, 0..2);
    for config in &searches() {
        let found = recorded.generate(&features, None, config).unwrap();
        same(&found, &launched.generate(&features, None, config).unwrap(), "refused");
    }
    assert_eq!(graphs(&recorded), 0);
    let Some(of_model) = recorded.decoding_graphs() else { return assert!(device().is_cpu()) };
    let refused = of_model.take_refusal().unwrap();
    assert!(refused.sequences == 2 && !refused.reason.is_empty(), "{refused:?}");
    assert_eq!(of_model.take_refusal(), None);
}

/// Layers whose outputs are multiplied by a value that may be replaced, as an adapter's weights.
struct Shifting {
    shared: Arc<Shared<Tensor>>,
    /// Whether they read it from the device in each pass.
    reads: bool,
}

#[derive(Debug)]
struct Shifted {
    base: FrozenLinear,
    shift: Arc<Shared<Tensor>>,
    reads: bool,
}

impl LinearLayer for Shifted {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let shift = self.shift.in_pass(ctx);
        if self.reads {
            shift.to_vec1::<f32>()?;
        }
        Ok(self.base.forward(xs, ctx)?.broadcast_mul(&shift)?)
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}

impl LayerBuilder for Shifting {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        let base = FrozenLinear::new(path, weight, bias)?;
        Ok(match path.starts_with("git.encoder") && path.ends_with("intermediate.dense") {
            true => Arc::new(Shifted { base, shift: Arc::clone(&self.shared), reads: self.reads }),
            false => Arc::new(base),
        })
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        Ok(value)
    }
}

#[test]
fn weights_that_were_replaced_are_used_by_the_next_call() {
    let weights = |value: f32| Tensor::new(&[value], &device()).unwrap();
    let shared = Arc::new(Shared::new(weights(1.0)));
    let builder = &mut Shifting { shared: Arc::clone(&shared), reads: false };
    let [recorded, launched] = [true, false].map(|graphs| model(builder, DType::F32, graphs));
    let features = features(&recorded, 0..2);
    let config = &searches()[0];
    let mut all = Vec::new();
    for value in [1.0, -3.0, 0.5] {
        shared.replace(weights(value));
        for call in 0..2 {
            let found = recorded.generate(&features, None, config).unwrap();
            same(
                &found,
                &launched.generate(&features, None, config).unwrap(),
                &format!("{value}, call {call}"),
            );
            all.push(found[0].score);
        }
    }
    assert!(all[0] != all[2] && all[2] != all[4], "the weights change nothing: {all:?}");
}

/// A model with two active adapters, or with one, and that adapter's handle.
fn adapted(config: &LoraConfig, two: bool, graphs: bool) -> (GitForCausalLm, Adapter) {
    let mut builder = LoraBuilder::new(config.clone()).unwrap();
    let model = model(&mut builder, DType::F32, graphs);
    let adapter = builder.finish().unwrap();
    if two {
        let adapters = adapter.adapters();
        let second = adapters.add("second", config, 1).unwrap();
        move_parameters(&second, 0.3);
        adapters.activate(["default", "second"]).unwrap();
    }
    (model, adapter)
}

/// Moves all parameters in place, as an optimizer does: each element by up to `distance`.
fn move_parameters(adapter: &Adapter, distance: f64) {
    for parameter in adapter.parameters().values() {
        let elements = Tensor::arange(0f32, parameter.elem_count() as f32, parameter.device()).unwrap();
        let change = (elements.cos().unwrap() * distance).unwrap().reshape(parameter.shape()).unwrap();
        parameter.set(&(parameter.as_tensor() + change).unwrap().detach()).unwrap();
    }
}

/// Some adapters are decoded with as they are, and others as a frozen copy, such as a merged weight.
#[test]
fn parameters_that_were_trained_in_place_are_used_by_the_next_call() {
    let lora =
        LoraConfig { r: 2, target_modules: ["query", "value", "dense"].into(), ..LoraConfig::default() };
    let head = vec!["output".to_owned()];
    let kinds = [
        ("LoRA", lora.clone(), false),
        ("two adapters", lora.clone(), true),
        ("DoRA", LoraConfig { use_dora: true, ..lora.clone() }, false),
        ("a trained head", LoraConfig { modules_to_save: head, ..lora.clone() }, false),
        ("all biases", LoraConfig { bias: Bias::All, target_modules: ["query"].into(), ..lora }, false),
    ];
    for (kind, config, two) in kinds {
        let (recorded, of_recorded) = adapted(&config, two, true);
        let (launched, of_launched) = adapted(&config, two, false);
        let features = features(&launched, 0..1);
        let [greedy, beams, ..] = searches();
        let short = |search| GenerationConfig { max_new_tokens: 5, min_new_tokens: 5, ..search };
        let searches = [short(greedy), short(beams)];
        let mut scores = Vec::new();
        for step in 0..2 {
            for config in &searches {
                let found = recorded.generate(&features, None, config).unwrap();
                let expected = launched.generate(&features, None, config).unwrap();
                same(&found, &expected, &format!("{kind}, after step {step}"));
                scores.push(found[0].score);
            }
            for adapter in [&of_recorded, &of_launched] {
                move_parameters(adapter, 0.2);
            }
        }
        assert!(
            scores.iter().zip(&scores[searches.len()..]).all(|(one, next)| one != next),
            "{kind}: {scores:?}"
        );
        assert_eq!(graphs(&recorded) > 0, !device().is_cpu(), "{kind}");
    }
}

/// Graphs of a merged adapter serve all calls, as its copies of weights do not change.
#[test]
fn graphs_of_a_merged_adapter_are_kept() {
    let config = LoraConfig { target_modules: ["query"].into(), ..LoraConfig::default() };
    // Greedy decoding and beams have steps of one sequence and of three.
    let count = |calls: &[usize]| {
        let (model, adapter) = adapted(&config, false, true);
        adapter.merge().unwrap();
        let features = features(&model, 0..1);
        for search in calls {
            model.generate(&features, None, &searches()[*search]).unwrap();
        }
        graphs(&model)
    };
    let [greedy, beams] = [count(&[0]), count(&[1])];
    // The caches of beams are large enough for one sequence.
    assert_eq!(count(&[1, 0]), greedy + beams);
    assert_eq!(greedy > 0 && beams > 0, !device().is_cpu());
}
