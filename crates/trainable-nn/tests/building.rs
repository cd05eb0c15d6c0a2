//! The requests that a `LayerBuilder` gets, and their names.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use train_ops::LinearLayer;
use trainable_nn::{
    ForwardContext, FrozenBuilder, Init, LayerBuilder, Linear, Module, TrainableBuilder, VarBuilder, VarMap,
    batch_norm, conv2d, embedding, enter, layer_norm, linear, linear_no_bias,
};

/// Builds frozen layers and records the requests.
#[derive(Default)]
struct Asked(Vec<String>);

impl LayerBuilder for Asked {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        self.0.push(format!("linear {path}"));
        FrozenBuilder.linear(path, weight, bias)
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        self.0.push(path.to_owned());
        FrozenBuilder.parameter(path, value)
    }
}

fn zeros() -> VarBuilder<'static> {
    VarBuilder::zeros(DType::F32, &Device::Cpu)
}

fn asked<M>(vb: VarBuilder<'static>, model: impl FnOnce(VarBuilder<'static>) -> Result<M>) -> Vec<String> {
    vb.build(Asked::default(), model).unwrap().1.0
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn layers_are_asked_for_by_their_paths_and_buffers_not_at_all() {
    let paths = asked(zeros(), |vb| {
        let vb = vb.pp("model");
        linear(2, 3, vb.pp("layers").pp(0).pp("dense"))?;
        layer_norm(2, 1e-5, vb.pp("norm"))?;
        embedding(4, 2, vb.pp("words"))?;
        conv2d(3, 2, 1, Default::default(), vb.pp("patches"))?;
        batch_norm(2, 1e-5, vb.pp("bn"))?;
        vb.get_with_hints((1, 2), "token", Init::Const(0.))?;
        vb.root().get(2, "scale")
    });
    let expected = [
        "linear model.layers.0.dense",
        // With `gamma` and `beta` for the older names, which zeros have too: the newer come first.
        "model.norm.weight",
        "model.norm.bias",
        "model.words.weight",
        "model.patches.weight",
        "model.patches.bias",
        "model.bn.weight",
        "model.bn.bias",
        "model.token",
        "scale",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn what_is_asked_for_twice_is_made_once() {
    let vb = zeros();
    let model = |vb: VarBuilder<'static>| {
        let words = embedding(4, 2, vb.pp("words"))?;
        let shared = linear(2, 2, vb.pp("shared"))?;
        // The output layer reads the embedding by its name, and another module the shared layer.
        Ok::<_, candle_core::Error>((
            words,
            linear_no_bias(2, 4, vb.pp("words"))?,
            shared,
            linear(2, 2, vb.pp("shared"))?,
        ))
    };
    let ((words, output, ..), trained) = vb.build(TrainableBuilder::new(), model).unwrap();
    let variables = trained.finish();
    assert_eq!(variables.keys().collect::<Vec<_>>(), ["shared.bias", "shared.weight", "words.weight"]);

    // A tied weight gets the gradients of both of its uses.
    variables["words.weight"].set(&tensor(&[1., 2., 3., 4., 5., 6., 7., 8.], &[4, 2])).unwrap();
    let _pass = enter(ForwardContext::training([0]));
    let xs = words.forward(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap();
    let gradients = output.forward(&xs).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(&variables["words.weight"]).unwrap().to_vec2::<f32>().unwrap();
    // dW = 1 xᵀ, and the embedding's row 1 gets the sum of the rows of W besides.
    assert_eq!(gradient, [[3., 4.], [3. + 16., 4. + 20.], [3., 4.], [3., 4.]]);
}

#[test]
fn layers_have_the_names_of_the_checkpoint_or_others_that_are_given() {
    let tensors = HashMap::from([("bert.encoder.weight".to_owned(), tensor(&[1.; 6], &[3, 2]))]);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let vb = vb.rename_f(|name| format!("bert.{}", name.replace("enc.", "encoder.")));
    assert!(vb.pp("enc").contains_tensor("weight"));
    let model = |vb: VarBuilder<'static>| linear_no_bias(2, 3, vb.pp("enc"));
    assert_eq!(asked(vb.clone(), model), ["linear bert.encoder"]);
    let vb = vb.layer_paths(|path| path.trim_start_matches("bert.").to_owned());
    assert_eq!(asked(vb, model), ["linear encoder"]);
}

#[test]
fn a_layer_that_is_built_later_is_refused() {
    let (vb, _) = zeros().build(TrainableBuilder::new(), Ok::<_, candle_core::Error>).unwrap();
    let error = linear(2, 3, vb.pp("late")).unwrap_err().to_string();
    assert!(error.contains("late") && error.contains("inside the closure"), "{error}");
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_errors_that_name_it() {
    let tensors = HashMap::from([("a.weight".to_owned(), tensor(&[1.; 6], &[3, 2]))]);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let error = |in_dim| {
        let model = |vb: VarBuilder<'static>| linear(in_dim, 3, vb.pp("a"));
        vb.clone().build(TrainableBuilder::new(), model).map(|_| ()).unwrap_err().to_string()
    };
    assert!(error(2).contains("a.bias"), "{}", error(2));
    assert!(error(4).contains("a.weight"), "{}", error(4));
    // The same after the tensor was made.
    let model = |vb: VarBuilder<'static>| {
        vb.get((3, 2), "a.weight")?;
        vb.get((2, 3), "a.weight")
    };
    let error = vb.build(TrainableBuilder::new(), model).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("a.weight") && error.contains("[2, 3]"), "{error}");
}

#[test]
fn weight_and_bias_are_those_of_the_base_whoever_built_the_layer() {
    let map = VarMap::new();
    let vb = || VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let plain = linear(2, 3, vb()).unwrap();
    let weight = map.data().lock().unwrap()["weight"].as_tensor().to_vec2::<f32>().unwrap();
    let bias = map.data().lock().unwrap()["bias"].as_tensor().to_vec1::<f32>().unwrap();
    let adapted = |change: fn(&mut peft_lora::LoraConfig)| {
        let mut config =
            peft_lora::LoraConfig { r: 2, target_modules: ["dense"].into(), ..Default::default() };
        change(&mut config);
        let lora = peft_lora::LoraBuilder::new(config).unwrap();
        let named = vb().rename_f(|name| name.trim_start_matches("dense.").to_owned());
        let named = named.layer_paths(|_| "dense".to_owned());
        let (layer, lora) = named.build(lora, |vb| linear(2, 3, vb.pp("dense"))).unwrap();
        lora.finish().unwrap();
        layer
    };
    let layers: [Linear; 7] = [
        plain,
        vb().build(FrozenBuilder, |vb| linear(2, 3, vb)).unwrap().0,
        vb().build(TrainableBuilder::new(), |vb| linear(2, 3, vb)).unwrap().0,
        adapted(|_| {}),
        adapted(|config| config.use_dora = true),
        adapted(|config| config.init_lora_weights = peft_lora::InitLoraWeights::Pissa),
        adapted(|config| config.modules_to_save = vec!["dense".into()]),
    ];
    for layer in layers {
        assert_eq!(layer.weight().to_vec2::<f32>().unwrap(), weight);
        assert_eq!(layer.bias().unwrap().to_vec1::<f32>().unwrap(), bias);
    }
}
