//! Gradients of all parameters.

use candle_core::{DType, Device, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use train_ops::{Dropout, ForwardContext, FrozenBuilder, LayerBuilder as _, sample_key};

use crate::common::{Net, adapted, config, difference, ids, loss, training, values};
use crate::{change, norm, table};

#[test]
fn every_parameter_gets_a_gradient_and_disabling_restores_the_linear_layers() {
    let base = Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids());
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        change(&adapter);
        let gradients = loss(&net.forward(&ids(), &training(0))).backward().unwrap();
        for (parameter, var) in adapter.parameters() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: none for {parameter}"));
            assert_eq!(gradient.dims(), var.dims());
            assert!(norm(gradient) > 0.0, "{name}: zero for {parameter}");
        }
        assert!(!net.infer(&ids()).track_op(), "{name}: inference records a graph");
        if name == "modules_to_save" {
            continue; // The embedding is trained in place.
        }
        let _base = adapter.disable();
        assert_eq!(values(&net.infer(&ids())), values(&base), "{name}");
    }
}

/// Central differences of the loss in f32, along the gradient of each parameter, where they are largest. The norms of DoRA are
/// constants for the gradient and no constants for the loss, so that its `A` and `B` are left out.
#[test]
fn gradients_agree_with_finite_differences() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config.clone());
        change(&adapter);
        let pass = || net.forward(&ids(), &training(0));
        let gradients = loss(&pass()).backward().unwrap();
        for (parameter, var) in adapter.parameters() {
            if config.use_dora && (parameter.contains("lora_A") || parameter.contains("lora_B")) {
                continue;
            }
            let gradient = gradients.get(&var).unwrap();
            let direction = (gradient / f64::from(norm(gradient))).unwrap();
            let value = var.as_detached_tensor().copy().unwrap();
            let at = |step: f64| {
                var.set(&(&value + (&direction * step).unwrap()).unwrap()).unwrap();
                f64::from(loss(&pass()).to_scalar::<f32>().unwrap())
            };
            let slope = (at(0.02) - at(-0.02)) / 0.04;
            var.set(&value).unwrap();
            let expected = f64::from(norm(gradient));
            assert!(
                (slope - expected).abs() < 0.02 * expected + 2e-5,
                "{name}, {parameter}: {slope} and {expected}"
            );
        }
    }
}

/// PEFT drops the input of both products of DoRA, and adds the difference to the base's result for the whole input.
#[test]
fn dora_drops_its_input_as_peft_does() {
    let weight = Tensor::new(&[[1f32, -2., 3.], [0.5, 4., -1.]], &Device::Cpu).unwrap();
    let bias = Tensor::new(&[0.25f32, -0.75], &Device::Cpu).unwrap();
    let options = LoraConfig { r: 2, lora_dropout: 0.5, use_dora: true, ..config(["layer"]) };
    let mut builder = LoraBuilder::new(options).unwrap();
    let layer = builder.linear("layer", weight.clone(), Some(bias.clone())).unwrap();
    let adapter = builder.finish().unwrap();
    change(&adapter);
    let xs = Tensor::new(&[[[1f32, 2., 3.], [-1., 0.5, 2.]], [[0.3, -2., 1.], [4., 1., -3.]]], &Device::Cpu)
        .unwrap();
    let ctx = ForwardContext::training([sample_key(3, 1, 0), sample_key(3, 1, 1)]);
    let dropped = Dropout::new("layer.lora_dropout", 0.5).unwrap().forward(&xs, &ctx).unwrap();
    assert_ne!(values(&dropped), values(&xs));

    let lora = adapter.layers().next().unwrap();
    let delta = (lora.b().matmul(lora.a()).unwrap() * lora.scale()).unwrap();
    let norms = (&weight + &delta).unwrap().sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let magnitude = &adapter.parameters()["base_model.model.layer.lora_magnitude_vector"];
    let factors = (magnitude.as_tensor() / norms).unwrap();
    let product = |xs: &Tensor, weight: &Tensor| xs.broadcast_matmul(&weight.t().unwrap()).unwrap();
    let base = product(&xs, &weight).broadcast_add(&bias).unwrap();
    // result + (g - 1) x W + g s B A x, as in PEFT's DoraLinearLayer.
    let scaled = product(&dropped, &weight).broadcast_mul(&(&factors - 1.0).unwrap()).unwrap();
    let update = product(&dropped, &delta).broadcast_mul(&factors).unwrap();
    let expected = ((base + scaled).unwrap() + update).unwrap();
    let error = difference(&layer.forward(&xs, &ctx).unwrap(), &expected);
    assert!(error < 1e-6, "{error:e}");
}
