//! LoRA of embeddings and convolutions against PEFT: outputs, the gradient of every A and B, merged weights, and files.
//! `fixtures/make_layers.py` made the expected values.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, safetensors};
use peft_lora::{Adapter, BASE_ADAPTER, Error, InitLoraWeights, LoraBuilder, LoraConfig};
use trainable_nn::{
    Conv2d, Conv2dConfig, Embedding, ForwardContext, FrozenBuilder, LayerBuilder, Linear, Module, VarBuilder,
    conv2d, conv2d_no_bias, embedding, enter, linear,
};

/// The model of `make_layers.py`.
struct Net {
    words: Embedding,
    patches: Conv2d,
    mix: Conv2d,
    point: Conv2d,
    head: Linear,
}

impl Net {
    fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let strided = Conv2dConfig { stride: 2, padding: 1, ..Conv2dConfig::default() };
        let grouped = Conv2dConfig { padding: 1, groups: 2, ..Conv2dConfig::default() };
        Ok(Self {
            words: embedding(11, 6, vb.pp("words"))?,
            patches: conv2d(3, 8, 3, strided, vb.pp("patches"))?,
            mix: conv2d_no_bias(8, 4, 3, grouped, vb.pp("mix"))?,
            point: conv2d(4, 6, 1, Conv2dConfig::default(), vb.pp("point"))?,
            head: linear(6, 5, vb.pp("head"))?,
        })
    }

    fn forward(&self, ids: &Tensor, pixels: &Tensor) -> Tensor {
        let image = self.patches.forward(pixels).unwrap().tanh().unwrap();
        let image = self.point.forward(&self.mix.forward(&image).unwrap().tanh().unwrap()).unwrap();
        let image = image.flatten_from(2).unwrap().mean(2).unwrap().unsqueeze(1).unwrap();
        let sum = self.words.forward(ids).unwrap().broadcast_add(&image).unwrap();
        self.head.forward(&sum.tanh().unwrap()).unwrap()
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected() -> HashMap<String, Tensor> {
    safetensors::load(fixture("layers.safetensors"), &Device::Cpu).unwrap()
}

fn build<B: LayerBuilder + Send + 'static>(builder: B) -> Result<(Net, B)> {
    let base = expected()
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("base.")?.to_owned(), tensor)));
    VarBuilder::from_tensors(base.collect(), DType::F32, &Device::Cpu).build(builder, Net::new)
}

fn built(lora: LoraBuilder) -> (Net, Adapter) {
    let (net, lora) = build(lora).unwrap();
    (net, lora.finish().unwrap())
}

fn new(targets: &[&str]) -> LoraConfig {
    LoraConfig {
        r: 4,
        lora_alpha: 6.0,
        target_modules: targets.into(),
        init_lora_weights: InitLoraWeights::Random,
        ..LoraConfig::default()
    }
}

fn output(net: &Net) -> Tensor {
    let expected = expected();
    net.forward(&expected["ids"], &expected["pixels"])
}

fn largest(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    largest(&(got - expected).unwrap()) / largest(expected)
}

fn norm(tensor: &Tensor) -> f32 {
    tensor.sqr().unwrap().sum_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
}

#[test]
fn adapters_saved_by_peft_give_its_outputs_gradients_and_merged_weights() {
    let expected = expected();
    let (base, _) = build(FrozenBuilder).unwrap();
    assert!(difference(&output(&base), &expected["base_output"]) < 1e-6);
    for name in ["embedding", "conv2d", "all"] {
        let folder = fixture("layers").join(name);
        let (net, adapter) = built(LoraBuilder::from_pretrained(&folder).unwrap());
        let of_peft = &expected[&format!("{name}.output")];
        let error = difference(&output(&net), of_peft);
        assert!(error < 2e-5, "{name}: {error:e}");
        assert!(difference(of_peft, &expected["base_output"]) > 0.05, "{name} has no effect to speak of");
        let off = adapter.disable();
        assert_eq!(largest(&(output(&net) - output(&base)).unwrap()), 0.0, "{name}");
        drop(off);

        let pass = enter(ForwardContext::training([1, 2]));
        let trained = output(&net);
        drop(pass);
        // Only an embedding has dropout, which PEFT does not apply to it.
        assert!(difference(&trained, of_peft) < 2e-5, "{name}");
        let loss = (trained * &expected["loss_weights"]).unwrap().mean_all().unwrap();
        let gradients = loss.backward().unwrap();
        let parameters = adapter.parameters();
        let prefix = format!("{name}.gradient.");
        assert_eq!(parameters.len(), expected.keys().filter(|key| key.starts_with(&prefix)).count());
        for (parameter, var) in parameters {
            let of_peft = &expected[&format!("{prefix}{parameter}")];
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: none for {parameter}"));
            let error = norm(&(gradient - of_peft).unwrap()) / norm(of_peft);
            assert!(error < 1e-4, "{name}, {parameter}: {error:e}");
        }
        for merged in adapter.merged_weights() {
            let (weight, merged) = match merged {
                Ok(merged) => merged,
                Err(error) => {
                    assert!(error.to_string().contains("mix: the update of a convolution of several groups"));
                    continue;
                }
            };
            let error = difference(&merged, &expected[&format!("{name}.merged.{weight}")]);
            assert!(error < 2e-5, "{name}, {weight}: {error:e}");
        }
    }
}

/// Set `TRAINABLE_NN_KEEP` to a folder to keep the files for `fixtures/check_layers_in_peft.py`, which opens them with PEFT.
#[test]
fn a_saved_adapter_opens_with_the_same_outputs() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("TRAINABLE_NN_KEEP");
    let root = kept.map_or(temporary.path().to_owned(), |folder| PathBuf::from(folder).join("layers"));
    for (name, targets) in [("words", &["words"][..]), ("all", &["words", "patches", "mix", "point", "head"])]
    {
        let (net, adapter) = built(LoraBuilder::new(new(targets)).unwrap());
        let folder = root.join(name);
        adapter.save(&folder).unwrap();
        let before = output(&net);
        safetensors::save(&HashMap::from([("output", before.clone())]), folder.join("output.safetensors"))
            .unwrap();
        let (again, _) = built(LoraBuilder::from_pretrained(&folder).unwrap());
        assert_eq!(largest(&(output(&again) - &before).unwrap()), 0.0, "{name}");

        let tensors = safetensors::load(folder.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(tensors["base_model.model.words.lora_embedding_A"].dims(), [4, 11]);
        assert_eq!(tensors["base_model.model.words.lora_embedding_B"].dims(), [6, 4]);
        if name == "all" {
            assert_eq!(tensors["base_model.model.patches.lora_A.weight"].dims(), [4, 3, 3, 3]);
            assert_eq!(tensors["base_model.model.mix.lora_A.weight"].dims(), [4, 8, 3, 3]);
            assert_eq!(tensors["base_model.model.mix.lora_B.weight"].dims(), [4, 2, 1, 1]);
        }
    }
}

/// PEFT saves it beside the adapter of an embedding that is called `embed_tokens`.
#[test]
fn the_frozen_weight_in_a_file_has_to_be_that_of_the_base() {
    let (_, adapter) = built(LoraBuilder::new(new(&["words"])).unwrap());
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let with = |weight: Tensor| {
        let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
        tensors.insert("base_model.model.words.base_layer.weight".to_owned(), weight);
        safetensors::save(&tensors, &path).unwrap();
        build(LoraBuilder::from_pretrained(folder.path()).unwrap()).unwrap().1.finish()
    };
    let weight = expected()["base.words.weight"].clone();
    with(weight.to_dtype(DType::BF16).unwrap()).unwrap();
    let error = with((weight * 1.1).unwrap()).unwrap_err();
    assert!(matches!(&error, Error::OtherBase { name, .. } if name.contains("words.base_layer")), "{error}");
    let resized = with(Tensor::zeros((12, 6), DType::F32, &Device::Cpu).unwrap()).unwrap_err();
    assert!(resized.to_string().contains("expected [11, 6], got [12, 6]"), "{resized}");
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (net, adapter) = built(LoraBuilder::new(new(&["words", "patches", "mix", "point"])).unwrap());
    let loss = || {
        let _pass = enter(ForwardContext::training([1, 2]));
        (output(&net) * &expected()["loss_weights"]).unwrap().mean_all().unwrap()
    };
    let gradients = loss().backward().unwrap();
    for (parameter, var) in adapter.parameters() {
        let gradient = gradients.get(&var).unwrap();
        let size = norm(gradient);
        let direction = (gradient / f64::from(size)).unwrap();
        let value = var.as_detached_tensor().copy().unwrap();
        let at = |step: f64| {
            var.set(&(&value + (&direction * step).unwrap()).unwrap()).unwrap();
            loss().to_scalar::<f32>().unwrap()
        };
        let slope = (at(0.02) - at(-0.02)) / 0.04;
        var.set(&value).unwrap();
        assert!((slope - size).abs() < 0.02 * size + 2e-5, "{parameter}: {slope} and {size}");
    }
}

#[test]
fn a_new_adapter_changes_nothing() {
    let base = output(&build(FrozenBuilder).unwrap().0);
    let config = LoraConfig {
        init_lora_weights: InitLoraWeights::Default,
        ..new(&["words", "patches", "mix", "point"])
    };
    let (net, adapter) = built(LoraBuilder::new(config).unwrap());
    assert_eq!(largest(&(output(&net) - base).unwrap()), 0.0);
    assert_eq!(adapter.report().modules().len(), 4);
}

#[test]
fn each_sample_can_have_its_own_adapter() {
    let (net, adapter) = built(LoraBuilder::from_pretrained(fixture("layers/all")).unwrap());
    adapter.adapters().load("conv2d", fixture("layers/conv2d")).unwrap();
    let expected = expected();
    for names in [["default", BASE_ADAPTER], ["conv2d", "default"], ["conv2d", "conv2d"]] {
        let pass = enter(ForwardContext::inference().with_adapters(names));
        let got = output(&net);
        drop(pass);
        for (row, name) in names.into_iter().enumerate() {
            let alone = match name {
                "default" => &expected["all.output"],
                "conv2d" => &expected["conv2d.output"],
                _ => &expected["base_output"],
            };
            let row = |tensor: &Tensor| tensor.narrow(0, row, 1).unwrap();
            assert!(difference(&row(&got), &row(alone)) < 2e-5, "{names:?}");
        }
    }
}

#[test]
fn all_linear_adapts_linear_layers_only_and_what_is_not_supported_is_refused() {
    let all = LoraConfig { target_modules: "all-linear".into(), ..new(&[]) };
    let (_, adapter) = built(LoraBuilder::new(all).unwrap());
    assert_eq!(adapter.layers().map(|layer| layer.path().to_owned()).collect::<Vec<_>>(), ["head"]);

    let refused =
        |config: LoraConfig| build(LoraBuilder::new(config).unwrap()).unwrap().1.finish().unwrap_err();
    for (config, expected) in [
        (
            LoraConfig { use_dora: true, ..new(&["words"]) },
            "words: use_dora is supported for linear layers only",
        ),
        (
            LoraConfig { lora_bias: true, ..new(&["point"]) },
            "point: lora_bias is supported for linear layers only",
        ),
        (
            LoraConfig { init_lora_weights: InitLoraWeights::Pissa, ..new(&["point"]) },
            "point: init_lora_weights with PiSSA or OLoRA is supported for linear layers only",
        ),
        (
            LoraConfig { r: 3, ..new(&["mix"]) },
            "mix: the rank 3 cannot be divided among the convolution's 2 groups",
        ),
    ] {
        let error = refused(config);
        assert!(
            matches!(error, Error::Unsupported { .. }) && error.to_string().starts_with(expected),
            "{error}"
        );
    }
    let error = refused(new(&["wrods", "head"])).to_string();
    assert!(
        error.starts_with("target_modules: wrods matches no linear layer; the model has words"),
        "{error}"
    );
}
