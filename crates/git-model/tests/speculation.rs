//! Speculative decoding: the captions of plain decoding, with fewer passes of the model.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use common::captions::{model, pictures, speculative};
use common::{Checkpoint as Golden, fixture_json};
use git_model::{
    Caption, CaptionModel as _, Checkpoint, GenerationConfig, GitForCausalLm, LoadOptions, Progress, Sampling,
};
use train_ops::{ForwardContext, FrozenBuilder, FrozenLinear, LayerBuilder, LinearLayer};

/// A draft that is mostly right and one that is mostly wrong, for every kind of search and for different
/// numbers of pictures: from one, with many proposed steps, to so many that no step is proposed.
#[test]
fn a_draft_does_not_change_a_bit_of_a_caption_however_wrong_it_is() {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"]["image"];
    let mut other = checkpoint.clone();
    other["seed"] = 12345.into();
    let wrong = model(&other, &mut FrozenBuilder).draft().unwrap();
    let sampling = Sampling { temperature: 2.0, ..Sampling::default() };
    let base = || GenerationConfig { max_new_tokens: 20, min_new_tokens: 8, ..GenerationConfig::default() };
    let configs = [
        base(),
        GenerationConfig { num_beams: 2, ..GenerationConfig::recipe() },
        GenerationConfig { num_beams: 4, num_return_sequences: 3, ..base() },
        GenerationConfig { num_return_sequences: 2, sampling: Some(sampling), ..base() },
        GenerationConfig { max_new_tokens: 1, min_new_tokens: 0, ..base() },
    ];
    for dtype in [DType::F32, DType::BF16] {
        let dir = tempfile::tempdir().unwrap();
        Golden::new(checkpoint).write(dir.path());
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let opened = Checkpoint::open(dir.path()).unwrap();
        let model = GitForCausalLm::load_with(&opened, &mut FrozenBuilder, &options).unwrap();
        let own = model.draft().unwrap();
        for pictures in [1, 2, 5] {
            let pictures: Vec<_> =
                (0..pictures).map(|picture| Golden::new(checkpoint).picture(picture)).collect();
            let pixels = Tensor::cat(&pictures, 0).unwrap();
            let features = model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
            for (config, prompt) in configs.iter().zip([None, Some(&[101, 7, 9][..]), None, None, None]) {
                let plain = model.generate(&features, prompt, config).unwrap();
                for draft in [&own, &wrong] {
                    assert_eq!(speculative(&model, &features, prompt, config, draft), plain, "{config:?}");
                }
            }
        }
    }
}

#[test]
fn a_draft_of_another_shape_is_refused_with_both_shapes() {
    let (model, features) = pictures("image", 1);
    let dir = tempfile::tempdir().unwrap();
    common::Golden::load("small").checkpoint().write(dir.path());
    let small = GitForCausalLm::load(&Checkpoint::open(dir.path()).unwrap(), &mut FrozenBuilder).unwrap();
    let draft = small.draft().unwrap();
    let sizes = |model: &GitForCausalLm| {
        let (hidden_size, vocabulary) = (model.config().hidden_size, model.config().vocab_size);
        format!("hidden size {hidden_size} and a vocabulary of {vocabulary}")
    };
    assert_ne!(sizes(&small), sizes(&model));
    let on_token = &mut |_: Progress<'_>| ControlFlow::Continue(());
    let config = GenerationConfig::default();
    let error =
        model.generate_with(&features, None, &config, Some(&draft), on_token).unwrap_err().to_string();
    assert!(error.contains(&sizes(&small)) && error.contains(&sizes(&model)), "{error}");
}

/// A head that records the number of rows of each of its products. It is used in the draft as it is.
#[derive(Debug)]
struct RecordingHead {
    layer: FrozenLinear,
    rows: Arc<Mutex<Vec<usize>>>,
}

impl LinearLayer for RecordingHead {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        self.rows.lock().unwrap().push(xs.elem_count() / self.layer.in_features());
        self.layer.forward(xs, ctx)
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.layer.in_features()
    }

    fn out_features(&self) -> usize {
        self.layer.out_features()
    }
}

/// Builds a frozen model with such a head.
struct RecordingBuilder(Arc<Mutex<Vec<usize>>>);

impl LayerBuilder for RecordingBuilder {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        let layer = FrozenLinear::new(path, weight, bias)?;
        let rows = Arc::clone(&self.0);
        Ok(if path == "output" { Arc::new(RecordingHead { layer, rows }) } else { Arc::new(layer) })
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        Ok(value)
    }
}

#[test]
fn the_model_verifies_all_proposed_tokens_in_one_pass() {
    let golden = fixture_json("golden_generation.json");
    let checkpoint = &golden["checkpoints"]["image"];
    let rows = Arc::new(Mutex::new(Vec::new()));
    let model = model(checkpoint, &mut RecordingBuilder(Arc::clone(&rows)));
    let features =
        model.encode_images(&Golden::new(checkpoint).picture(0), &ForwardContext::inference()).unwrap();
    let draft = model.draft().unwrap();
    let config = GenerationConfig { max_new_tokens: 26, min_new_tokens: 26, ..GenerationConfig::default() };
    let products = |captions: Vec<Caption>| {
        assert_eq!(captions[0].ids.len(), 27);
        rows.lock().unwrap().drain(..).collect::<Vec<_>>()
    };
    assert_eq!(products(model.generate(&features, None, &config).unwrap()), [1; 26]);
    // After the prompt, the model reads a token and three proposals, and each time one more, up to eight rows. The draft has
    // a pass for each of its proposals; the last one is that nothing follows.
    let products = products(speculative(&model, &features, None, &config, &draft));
    let verified: Vec<_> = products.iter().copied().filter(|rows| *rows > 1).collect();
    assert_eq!(verified, [4, 5, 6, 7, 3], "{products:?}");
    assert_eq!(products.iter().filter(|rows| **rows == 1).count(), 1 + 3 + 4 + 5 + 6 + 3);
}
