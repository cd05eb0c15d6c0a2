//! Captions against transformers' `generate`, one by one, in batches and by speculative decoding.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;

use blip_model::{
    BlipForConditionalGeneration, CaptionCheckpoint, CaptionModel, GenerationConfig, LoadOptions,
};
use candle_core::Tensor;
use caption_model::EarlyStopping;
use common::{Golden, Source, device, fixture_json, ids, load, on_device, some};
use train_ops::{ForwardContext, FrozenBuilder};

/// On the device `TEST_DEVICE`, some of them on others than the CPU, and with a draft where there can be one.
#[test]
fn captions_are_those_of_transformers_one_by_one_in_batches_and_with_a_draft() {
    let golden = fixture_json("golden_generation.json");
    let source = Source::new(&golden["checkpoint"]);
    let (_dir, checkpoint) = source.open();
    let model =
        BlipForConditionalGeneration::load_with(&checkpoint, &mut FrozenBuilder, &on_device()).unwrap();
    let draft = device().is_cpu().then(|| model.draft().unwrap());
    let mut captions_of = 0;
    for (case, facts) in golden["cases"].as_object().unwrap() {
        let config = match case.as_str() {
            "greedy" => GenerationConfig::default(),
            _ => GenerationConfig::recipe(),
        };
        assert_eq!(facts["options"]["num_beams"].as_u64().unwrap() as usize, config.num_beams);
        assert_eq!(
            facts["options"]["early_stopping"] == true,
            config.early_stopping == EarlyStopping::Always
        );
        let captions = some(facts["captions"].as_array().unwrap());
        let mut features = Vec::new();
        for caption in &captions {
            let picture = caption["picture"].as_u64().unwrap();
            let prompt = caption.get("prompt").map(ids);
            let own = model.encode_images(&source.picture(picture), &ForwardContext::inference()).unwrap();
            let generated = model.generate(&own, prompt.as_deref(), &config).unwrap();
            assert_eq!(generated[0].ids, ids(&caption["ids"]), "{case}, picture {picture}");
            if draft.is_some() {
                let go_on = &mut |_: caption_model::Progress<'_>| ControlFlow::Continue(());
                let drafted =
                    model.generate_with(&own, prompt.as_deref(), &config, draft.as_ref(), go_on).unwrap();
                assert_eq!(drafted, generated, "{case}, picture {picture} with a draft");
            }
            features.push(own);
            captions_of += 1;
        }
        if captions[0].get("prompt").is_none() {
            let all = model.generate(&Tensor::cat(&features, 0).unwrap(), None, &config).unwrap();
            for (generated, caption) in all.iter().zip(captions) {
                assert_eq!(generated.ids, ids(&caption["ids"]), "{case} in a batch");
            }
        }
    }
    assert!(captions_of >= if device().is_cpu() { 110 } else { 4 }, "{captions_of}");
}

/// Any kind of model behind the trait gives the captions of its own type.
#[test]
fn a_model_is_used_without_knowing_its_kind() {
    let golden = fixture_json("golden_generation.json");
    let source = Source::new(&golden["checkpoint"]);
    let (_dir, checkpoint) = source.open();
    let checkpoint: Box<dyn CaptionCheckpoint> = Box::new(checkpoint);
    assert_eq!(checkpoint.architecture().model_type, "blip");
    assert_eq!(
        (checkpoint.caption_config().image_size(), checkpoint.caption_config().feature_shape()),
        (32, (17, 48))
    );
    let options = LoadOptions::default();
    let mut model: Box<dyn CaptionModel> = checkpoint.load_model(&mut FrozenBuilder, &options).unwrap();
    let expected = &golden["cases"]["greedy"]["captions"][0];
    let picture = source.picture(expected["picture"].as_u64().unwrap());
    let features = model.encode_images(&picture, &ForwardContext::inference()).unwrap();
    model.release_image_encoder();
    let captions = model.generate(&features, None, &GenerationConfig::default()).unwrap();
    assert_eq!(captions[0].ids, ids(&expected["ids"]));
    assert!(model.encode_images(&picture, &ForwardContext::inference()).is_err(), "the encoder was released");
}

#[test]
fn prompts_must_begin_with_the_start_token_and_fit_the_positions() {
    let golden = Golden::load("tied");
    let (_dir, checkpoint) = golden.source().open();
    let model = load(&checkpoint, &mut FrozenBuilder, &LoadOptions::default());
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let config = GenerationConfig::default();
    let error = model.generate(&features, Some(&[101, 7]), &config).unwrap_err().to_string();
    assert!(error.contains("120"), "names [DEC]: {error}");
    let long = GenerationConfig { max_new_tokens: 65, ..config };
    assert!(model.generate(&features, None, &long).is_err(), "65 tokens, 64 positions");
    let narrow = features.narrow(2, 0, 40).unwrap();
    let error = model.generate(&narrow, None, &GenerationConfig::default()).unwrap_err().to_string();
    assert!(error.contains("image_features: expected shape (pictures, tokens, 48)"), "{error}");
}
