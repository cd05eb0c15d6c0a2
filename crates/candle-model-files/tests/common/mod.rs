//! Builds a model of candle-transformers twice, with candle-nn and with trainable-nn, and trains the second.

use std::collections::HashMap;

use candle::{Device, Result, Tensor};
use original_nn::{AdamW, Optimizer, ParamsAdamW, VarMap};
use peft_lora::{Adapter, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, sample_key};

/// A model with its adapter.
pub(crate) struct Tuned<M> {
    pub(crate) model: M,
    pub(crate) adapter: Adapter,
}

/// Fixed values without structure for all variables: norms near 1, biases small, matrices of the usual size.
pub(crate) fn weights(map: &VarMap) -> Result<HashMap<String, Tensor>> {
    let variables = map.data().lock().unwrap();
    let mut names: Vec<_> = variables.keys().collect();
    names.sort();
    let values = |(number, name): (usize, &String)| {
        let shape = variables[name].shape();
        let (mean, size) = match *shape.dims() {
            [_] if name.ends_with("weight") => (1.0, 0.1),
            [_] => (0.0, 0.1),
            _ => (0.0, (3.0 / *shape.dims().last().unwrap() as f32).sqrt()),
        };
        let values = (0..shape.elem_count() as u64).map(|index| {
            let unit = (sample_key(7, number as u64, index) >> 40) as f32 / (1 << 23) as f32 - 1.0;
            mean + size * unit
        });
        Ok((name.clone(), Tensor::from_vec(values.collect(), shape, &Device::Cpu)?))
    };
    names.into_iter().enumerate().map(values).collect()
}

/// A builder of adapters for the layers that end in one of `targets`.
pub(crate) fn lora(targets: &[&str]) -> LoraBuilder {
    let target_modules = targets.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let config = LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.1,
        target_modules: peft_lora::Modules::Names(target_modules),
        ..LoraConfig::default()
    };
    LoraBuilder::new(config).unwrap()
}

/// The largest difference of two tensors.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let largest = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    largest.to_scalar().unwrap()
}

/// Trains the adapter towards other outputs: the loss falls, and every parameter gets a gradient that is not zero.
pub(crate) fn train<M>(tuned: &mut Tuned<M>, expected: &Tensor, forward: impl Fn(&mut M) -> Result<Tensor>) {
    let Tuned { model, adapter } = tuned;
    let parameters = adapter.parameters();
    let target = (expected + expected.affine(3.0, 0.5).unwrap().sin().unwrap()).unwrap();
    let options = ParamsAdamW { lr: 0.01, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(parameters.values().cloned().collect(), options).unwrap();
    let samples = expected.dim(0).unwrap() as u64;
    let mut losses = Vec::new();
    for step in 0..30 {
        let keys: Vec<u64> = (0..samples).map(|sample| sample_key(0, step, sample)).collect();
        let ctx = candle_nn::enter(ForwardContext::training(keys));
        let loss = (forward(model).unwrap() - &target).unwrap().sqr().unwrap().mean_all().unwrap();
        drop(ctx);
        losses.push(loss.to_scalar::<f32>().unwrap());
        let gradients = loss.backward().unwrap();
        // At the first step B is zero, and with it A's gradient.
        for (name, parameter) in &parameters {
            let gradient = gradients.get(parameter).unwrap_or_else(|| panic!("{name} has no gradient"));
            let size = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(step == 0 || size > 0.0, "{name}: the gradient is zero in step {step}");
        }
        optimizer.step(&gradients).unwrap();
    }
    assert!(losses[29] < 0.8 * losses[0], "the loss does not fall: {losses:?}");
}

/// `forward`, which takes the type of its argument from `_model`.
pub(crate) fn of_model<M, F: Fn(&mut M) -> Result<Tensor>>(_model: &M, forward: F) -> F {
    forward
}

/// The weights with the adapter's update.
pub(crate) fn merged(weights: &HashMap<String, Tensor>, adapter: &Adapter) -> HashMap<String, Tensor> {
    let mut weights = weights.clone();
    for layer in adapter.layers() {
        let name = format!("{}.weight", layer.path());
        assert!(weights.insert(name.clone(), layer.merged_weight().unwrap()).is_some(), "{name}");
    }
    weights
}

/// A test of a model: `$build` makes it from `$models` (the modules of either crate) and `$vb`, `$forward` its output.
macro_rules! prove {
    (
        $name:ident, targets: $targets:expr, build: |$models:ident, $vb:ident| $build:expr,
        forward: |$model:ident| $forward:expr $(,)?
    ) => {
        #[test]
        fn $name() {
            fn of_candle($vb: original_nn::VarBuilder<'_>) -> candle::Result<Tensor> {
                use candle_transformers::models as $models;
                #[allow(unused_mut)]
                let mut model = $build?;
                let $model = &mut model;
                $forward
            }
            use candle_model_files::models as $models;
            // The first run only tells which tensors the model asks for, and their shapes.
            let map = original_nn::VarMap::new();
            let f32 = candle::DType::F32;
            of_candle(original_nn::VarBuilder::from_varmap(&map, f32, &Device::Cpu)).unwrap();
            let weights = common::weights(&map).unwrap();
            let plain = |weights: &std::collections::HashMap<String, Tensor>| {
                of_candle(original_nn::VarBuilder::from_tensors(weights.clone(), f32, &Device::Cpu)).unwrap()
            };
            let expected = plain(&weights);

            let vb = candle_nn::VarBuilder::from_tensors(weights.clone(), f32, &Device::Cpu);
            let (model, lora) = vb.build(common::lora(&$targets), |$vb| $build).unwrap();
            let mut tuned = common::Tuned { model, adapter: lora.finish().unwrap() };
            let layers = tuned.adapter.layers().count();
            let forward = common::of_model(&tuned.model, |$model| $forward);
            let output = forward(&mut tuned.model).unwrap();
            let difference = common::difference(&output, &expected);
            println!("{}: {layers} adapters, largest difference {difference:e}", stringify!($name));
            let size =
                expected.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
            assert!(difference <= 1e-5 * size.max(1.0), "{difference:e}");
            common::train(&mut tuned, &expected, &forward);

            // The tuned model is candle-transformers' own with the merged weights.
            let output = forward(&mut tuned.model).unwrap();
            let difference = common::difference(&output, &plain(&common::merged(&weights, &tuned.adapter)));
            assert!(difference <= 5e-5 * size.max(1.0), "merged: {difference:e}");
        }
    };
}
pub(crate) use prove;
