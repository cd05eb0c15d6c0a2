//! GIT with several adapters, and with adapters of other kinds than plain LoRA, in generation and in training.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use caption_lora::embedded;
use caption_model::CaptionModel;
use git_model::{GenerationConfig, GitForCausalLm};
use peft_lora::{Adapter, BASE_ADAPTER, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, enter, sample_key};

const TARGETS: [&str; 4] = ["query", "key", "value", "dense"];

fn config() -> LoraConfig {
    LoraConfig { r: 4, lora_alpha: 8.0, target_modules: TARGETS.into(), ..LoraConfig::default() }
}

fn model(config: LoraConfig) -> (GitForCausalLm, Adapter) {
    let checkpoint = git_model::Checkpoint::open(embedded::checkpoint().unwrap()).unwrap();
    let mut builder = LoraBuilder::new(config).unwrap().output_layer("output").seed(3);
    let model = GitForCausalLm::load(&checkpoint, &mut builder).unwrap();
    (model, builder.finish().unwrap())
}

/// Gives an adapter weights that change captions.
fn change(adapter: &Adapter, seed: f64) {
    for (name, parameter) in adapter.parameters() {
        if name.contains("lora_B") {
            let places = Tensor::arange(0f32, parameter.elem_count() as f32, &Device::Cpu).unwrap();
            let waves = places.affine(seed, name.len() as f64).unwrap().sin().unwrap();
            let waves = (waves.reshape(parameter.dims()).unwrap() * 0.1).unwrap();
            parameter.set(&(parameter.as_detached_tensor() + waves).unwrap()).unwrap();
        }
    }
}

/// The features of three pictures of stripes.
fn features(model: &GitForCausalLm) -> Tensor {
    let size = model.caption_config().image_size();
    let pixels = Tensor::arange(0f32, (3 * 3 * size * size) as f32, &Device::Cpu).unwrap();
    let pixels = pixels.affine(0.013, 0.0).unwrap().sin().unwrap().reshape((3, 3, size, size)).unwrap();
    model.encode_images(&pixels, &ForwardContext::inference()).unwrap()
}

fn captions(model: &GitForCausalLm, features: &Tensor, num_beams: usize) -> Vec<Vec<u32>> {
    let config = GenerationConfig { num_beams, max_new_tokens: 12, ..GenerationConfig::default() };
    let captions = model.generate(features, None, &config).unwrap();
    captions.into_iter().map(|caption| caption.ids).collect()
}

#[test]
fn each_picture_of_a_batch_can_have_its_own_adapter() {
    let (model, default) = model(config());
    let adapters = default.adapters();
    for (name, seed) in [("first", 1.3), ("second", 2.9)] {
        change(&adapters.add(name, &config(), 0).unwrap(), seed);
    }
    let features = features(&model);
    for num_beams in [1, 3] {
        let alone: Vec<_> = [None, Some("first"), Some("second")]
            .into_iter()
            .map(|name| {
                adapters.activate(name).unwrap();
                captions(&model, &features, num_beams)
            })
            .collect();
        assert!(alone[0] != alone[1] && alone[1] != alone[2], "the adapters change nothing: {alone:?}");
        for names in [["first", BASE_ADAPTER, "second"], ["second", "second", "first"]] {
            let pass = enter(ForwardContext::inference().with_adapters(names));
            let got = captions(&model, &features, num_beams);
            drop(pass);
            for (picture, name) in names.into_iter().enumerate() {
                let which =
                    [BASE_ADAPTER, "first", "second"].iter().position(|other| *other == name).unwrap();
                assert_eq!(got[picture], alone[which][picture], "{num_beams} beams, {names:?}");
            }
        }
    }
    let _pass = enter(ForwardContext::inference().with_adapters(["first", "second"]));
    let error = model.generate(&features, None, &GenerationConfig::default()).unwrap_err().to_string();
    assert!(error.contains("a name for each picture"), "{error}");
}

#[test]
fn a_caption_is_of_the_old_or_of_the_new_weights_while_another_thread_replaces_them() {
    let (model, adapter) = model(config());
    let adapters = adapter.adapters();
    let features = features(&model);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut expected = Vec::new();
    for (folder, seed) in folders.iter().zip([1.3, 2.9]) {
        change(&adapter, seed);
        adapter.save(folder.path()).unwrap();
        expected.push(captions(&model, &features, 2));
    }
    assert_ne!(expected[0], expected[1]);
    let (is_done, seen) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut swap = 0;
            while !is_done.load(Ordering::Relaxed) {
                adapters.hot_swap("default", folders[swap % 2].path()).unwrap();
                swap += 1;
            }
        });
        for _ in 0..40 {
            let got = captions(&model, &features, 2);
            let which = expected.iter().position(|expected| *expected == got);
            seen[which.unwrap_or_else(|| panic!("a mix: {got:?}"))].fetch_add(1, Ordering::Relaxed);
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{seen:?}");
}

/// A transformer layer is one operation only with plain LoRA; others run composed, with the same interface.
#[test]
fn other_kinds_of_adapters_train_in_transformer_layers_and_caption_as_merged() {
    for config in [
        LoraConfig { use_dora: true, ..config() },
        LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..config() },
        LoraConfig { init_lora_weights: InitLoraWeights::Olora, ..config() },
        LoraConfig { lora_bias: true, ..config() },
        LoraConfig { modules_to_save: vec!["output".into(), "embeddings.LayerNorm".into()], ..config() },
    ] {
        let (plain, base) = model(self::config());
        let (model, adapter) = model(config.clone());
        let features = features(&model);
        let ids = Tensor::new(&[[2u32, 10, 11, 3], [2, 7, 3, 0], [2, 9, 8, 3]], &Device::Cpu).unwrap();
        let labels = [vec![2i64, 10, 11, 3], vec![2, 7, 3, -100], vec![2, 9, 8, 3]];
        let ctx = ForwardContext::training([0, 1, 2].map(|sample| sample_key(1, 0, sample)));
        let loss_of = |model: &GitForCausalLm| model.loss(&features, &ids, &labels, &ctx).unwrap().0;
        let (loss, expected) = (loss_of(&model), loss_of(&plain));
        let [own, of_base] = [&loss, &expected].map(|loss| loss.to_scalar::<f32>().unwrap());
        assert!((own - of_base).abs() < 1e-4 * of_base, "{config:?}: a new adapter changes the loss");
        drop(base);
        let gradients = loss.backward().unwrap();
        for (name, parameter) in adapter.parameters() {
            assert!(gradients.get(&parameter).is_some(), "{config:?}: {name} has no gradient");
        }
        change(&adapter, 1.3);
        let before = captions(&model, &features, 2);
        adapter.merge().unwrap();
        assert_eq!(captions(&model, &features, 2), before, "{config:?}");
        assert_eq!(features.dtype(), DType::F32);
    }
}
