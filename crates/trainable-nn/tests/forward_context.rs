//! The forward context that a thread has entered: nesting, threads, and its effect on layers.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use std::sync::Barrier;

use candle_core::{DType, Device, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use trainable_nn::{
    Dropout, ForwardContext, Linear, Module, TrainableBuilder, VarBuilder, VarMap, current_context,
    embedding, enter, layer_norm, linear, rms_norm,
};

fn keys() -> Option<Vec<u64>> {
    current_context().sample_keys().map(<[u64]>::to_vec)
}

fn ones(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn the_newest_guard_that_exists_counts_in_whatever_order_guards_are_dropped() {
    assert_eq!(keys(), None);
    let first = enter(ForwardContext::training([1]));
    let second = enter(ForwardContext::training([2]));
    let inference = enter(ForwardContext::inference());
    assert_eq!(keys(), None);
    drop(second);
    assert_eq!(keys(), None);
    drop(inference);
    assert_eq!(keys(), Some(vec![1]));
    let third = enter(ForwardContext::training([3]));
    drop(first);
    assert_eq!(keys(), Some(vec![3]));
    drop(third);
    assert_eq!(keys(), None);
}

#[test]
fn a_guard_ends_with_a_panic() {
    let result = std::panic::catch_unwind(|| {
        let _pass = enter(ForwardContext::training([1]));
        panic!("a forward pass fails");
    });
    assert!(result.is_err());
    assert_eq!(keys(), None);
}

#[test]
fn one_thread_trains_a_model_while_others_generate_with_it() {
    let config = LoraConfig { r: 2, target_modules: ["output"].into(), ..LoraConfig::default() };
    let vb = VarBuilder::from_tensors(
        [("output.weight".to_owned(), ones(&[3, 4]))].into(),
        DType::F32,
        &Device::Cpu,
    );
    let build = |vb: VarBuilder<'static>| trainable_nn::linear_no_bias(4, 3, vb.pp("output"));
    let (layer, lora) = vb.build(LoraBuilder::new(config).unwrap(), build).unwrap();
    let _adapter = lora.finish().unwrap();
    // All threads are inside of a forward pass at the same time.
    let (begun, barrier) = (Barrier::new(4), Barrier::new(4));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (layer, begun, barrier) = (&layer, &begun, &barrier);
            scope.spawn(move || {
                let ctx =
                    if thread == 0 { ForwardContext::training([7, 8]) } else { ForwardContext::inference() };
                let _pass = enter(ctx);
                begun.wait();
                let ys = layer.forward(&ones(&[2, 4])).unwrap();
                barrier.wait();
                assert_eq!(ys.track_op(), thread == 0, "thread {thread}");
            });
        }
    });
}

#[test]
fn built_layers_record_a_graph_in_training_passes_alone() {
    let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    let build = |vb: VarBuilder<'static>| {
        Ok::<_, candle_core::Error>((
            linear(4, 4, vb.pp("linear"))?,
            embedding(5, 4, vb.pp("embedding"))?,
            layer_norm(4, 1e-5, vb.pp("norm"))?,
            rms_norm(4, 1e-5, vb.pp("rms"))?,
        ))
    };
    let ((linear, embedding, norm, rms), trained) = vb.build(TrainableBuilder::new(), build).unwrap();
    let variables = trained.finish();
    let names: Vec<&str> = variables.keys().map(String::as_str).collect();
    let expected =
        ["embedding.weight", "linear.bias", "linear.weight", "norm.bias", "norm.weight", "rms.weight"];
    assert_eq!(names, expected);
    let forward = || {
        let ids = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
        let xs = linear.forward(&embedding.forward(&ids).unwrap()).unwrap();
        (norm.forward(&xs).unwrap() + rms.forward(&xs).unwrap()).unwrap()
    };
    assert!(!forward().track_op());
    let _pass = enter(ForwardContext::training([1, 2]));
    let gradients = forward().sum_all().unwrap().backward().unwrap();
    for (name, variable) in &variables {
        assert!(gradients.get(variable).is_some(), "{name}");
    }
}

#[test]
fn a_recomputed_segment_that_enters_the_pass_has_the_gradients_of_one_that_is_not() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let (layer, trained) = vb.build(TrainableBuilder::new(), |vb| linear(3, 4, vb.pp("dense"))).unwrap();
    let variables = trained.finish();
    let dropout = Dropout::new(0.5);
    let segment = move |xs: &Tensor| {
        let _pass = enter(ForwardContext::training([1, 2]));
        dropout.forward(&layer.forward(xs)?, true)
    };
    let gradients = |ys: Tensor| {
        let gradients = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let of = |name: &str| gradients.get(&variables[name]).unwrap().flatten_all().unwrap();
        [of("dense.weight"), of("dense.bias")].map(|gradient| gradient.to_vec1::<f32>().unwrap())
    };
    let expected = gradients(segment(&ones(&[2, 3])).unwrap());
    assert!(expected[0].iter().any(|value| *value != 0.0));
    let parameters: Vec<Tensor> = variables.values().map(|variable| variable.as_tensor().clone()).collect();
    let ys = train_ops::recompute::<_, candle_core::Error>(&parameters, &ones(&[2, 3]), segment).unwrap();
    assert_eq!(gradients(ys), expected);
}

#[test]
fn layers_of_variables_train_without_a_guard_as_with_candle_nn() {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let (hidden, norm) =
        (linear(3, 4, vb.pp("hidden")).unwrap(), layer_norm(4, 1e-5, vb.pp("norm")).unwrap());
    let ys = norm.forward(&hidden.forward(&ones(&[2, 3])).unwrap()).unwrap();
    let gradients = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let variables = map.data().lock().unwrap();
    assert_eq!(variables.len(), 4);
    for (name, variable) in variables.iter() {
        assert!(gradients.get(variable).is_some(), "{name}");
    }
}

#[test]
fn dropout_repeats_its_masks_for_the_same_keys_and_differs_between_layers() {
    let build = || {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let make =
            |_: VarBuilder<'static>| Ok::<_, candle_core::Error>([Dropout::new(0.5), Dropout::new(0.5)]);
        vb.build(TrainableBuilder::new(), make).unwrap().0
    };
    let values = |dropout: &Dropout, keys: [u64; 2]| {
        let _pass = enter(ForwardContext::training(keys));
        dropout.forward(&ones(&[2, 64]), true).unwrap().to_vec2::<f32>().unwrap()
    };
    let [first, second] = build();
    let masks = values(&first, [1, 2]);
    assert_eq!(masks, values(&first, [1, 2]));
    assert_ne!(masks, values(&second, [1, 2]));
    assert_ne!(masks[0], masks[1]);
    // A sample's mask does not depend on its place in the batch, nor on how often the model was built.
    assert_eq!(masks[1], values(&build()[0], [2, 1])[0]);
    // Evaluation, by the argument.
    assert_eq!(first.forward(&ones(&[2, 4]), false).unwrap().to_vec2::<f32>().unwrap(), [[1.0; 4]; 2]);
}

#[test]
fn dropout_without_the_keys_of_a_pass_is_refused() {
    let error = Dropout::new(0.5).forward(&ones(&[2, 4]), true).unwrap_err().to_string();
    assert!(error.contains("trainable_nn::enter"), "{error}");
    assert!(Dropout::new(0.0).forward(&ones(&[2, 4]), true).is_ok());
}

#[test]
fn a_linear_layer_of_shapes_that_do_not_fit_fails_when_it_is_used() {
    let layer = Linear::new(ones(&[3, 4]), Some(ones(&[2])));
    let error = layer.forward(&ones(&[1, 4])).unwrap_err().to_string();
    assert!(error.contains("expected shape (3), got [2]"), "{error}");
}
