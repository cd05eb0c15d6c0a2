//! Values that layers share, the pass that a thread has entered, and adapters by sample.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use train_ops::{
    ForwardContext, FrozenLinear, LinearLayer as _, Shared, current_context, enter, scaled_features,
};

#[test]
fn a_pass_keeps_the_value_that_it_saw_first_and_its_clones_with_it() {
    let (one, other) = (Shared::new(1), Shared::new("a"));
    let pass = ForwardContext::inference();
    assert_eq!(*one.in_pass(&pass), 1);
    one.replace(2);
    other.replace("b");
    assert_eq!((*one.in_pass(&pass.clone()), *other.in_pass(&pass)), (1, "b"));
    other.replace("c");
    assert_eq!((*one.get(), *other.in_pass(&pass)), (2, "b"));
    one.update(|value| Ok::<_, ()>(value + 1)).unwrap();
    assert_eq!(*one.in_pass(&ForwardContext::training([1])), 3);
    assert_eq!(one.update(|_| Err("refused")), Err("refused"));
    assert_eq!(*one.get(), 3);
}

#[test]
fn passes_that_read_other_versions_or_other_values_differ() {
    let (one, other) = (Shared::new(1), Shared::new(2));
    let pass = |values: &[&Shared<i32>]| {
        let pass = ForwardContext::inference();
        values.iter().for_each(|value| _ = value.in_pass(&pass));
        pass
    };
    let before = pass(&[&one, &other]);
    assert!(before.has_values_of(&before.clone()) && pass(&[&one, &other]).has_values_of(&before));
    // More or fewer values, as with adapters that are disabled.
    for different in [pass(&[&one]), pass(&[])] {
        assert!(!different.has_values_of(&before) && !before.has_values_of(&different));
    }
    // An equal value is not the same memory.
    let only_one = pass(&[&one]);
    assert!(before.is_current());
    other.replace(2);
    assert!(!pass(&[&one, &other]).has_values_of(&before));
    assert!(!before.is_current() && only_one.is_current() && pass(&[&other]).is_current());
    assert_eq!(one.update(|_| Err("refused")), Err("refused"));
    assert!(only_one.is_current());
    one.update(|value| Ok::<_, ()>(*value)).unwrap();
    assert!(!only_one.is_current());
}

#[test]
fn contexts_of_inference_are_parts_of_the_pass_that_the_thread_has_entered() {
    let value = Shared::new(1);
    let pass = ForwardContext::inference().with_adapters(["a", "b"]);
    let entered = enter(pass.clone());
    assert_eq!(*value.in_pass(&ForwardContext::inference()), 1);
    value.replace(2);
    assert_eq!((*value.in_pass(&ForwardContext::inference()), *value.in_pass(&pass)), (1, 1));
    assert_eq!(current_context().adapters().unwrap(), ["a", "b"]);
    // Another thread has entered nothing.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(*value.in_pass(&ForwardContext::inference()), 2);
            assert!(ForwardContext::inference().adapters().is_none());
        });
    });
    drop(entered);
    assert_eq!(*value.in_pass(&ForwardContext::inference()), 2);
    // A training pass entered: evaluation within it is inference.
    let _training = enter(ForwardContext::training([1]));
    assert!(!ForwardContext::inference().is_training() && current_context().is_training());
}

#[test]
fn the_adapters_of_some_samples_are_selected_in_their_order() {
    let pass = ForwardContext::inference().with_adapters(["a", "b", "c"]);
    assert_eq!(pass.select([2, 0, 0]).adapters().unwrap(), ["c", "a", "a"]);
    assert_eq!(pass.select([3]).adapters().unwrap().len(), 0);
    assert!(ForwardContext::inference().select([0, 1]).adapters().is_none());
}

#[test]
fn a_layer_with_another_bias_has_the_same_weight() {
    let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
    let layer = FrozenLinear::new("layer", weight, Some(Tensor::new(&[1f32, 1., 1.], &Device::Cpu).unwrap()))
        .unwrap();
    let xs = Tensor::new(&[[1f32, -1.]], &Device::Cpu).unwrap();
    let run = |layer: &FrozenLinear| {
        layer.forward(&xs, &ForwardContext::inference()).unwrap().to_vec2::<f32>().unwrap()
    };
    assert_eq!(run(&layer), [[0., 0., 0.]]);
    assert_eq!(run(&layer.with_bias(None).unwrap()), [[-1., -1., -1.]]);
    let other = Tensor::new(&[0f32, 10., 20.], &Device::Cpu).unwrap();
    assert_eq!(run(&layer.with_bias(Some(other)).unwrap()), [[-1., 9., 19.]]);
    let error = layer.with_bias(Some(Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap())).unwrap_err();
    assert_eq!(error.to_string(), "layer.bias: expected shape (3), got [2]");
}

#[test]
fn scaled_features_have_the_gradients_of_their_formula() {
    let xs = Var::new(&[[[1f32, 2.], [3., 4.]]], &Device::Cpu).unwrap();
    let scale = Var::new(&[0.5f32, -2.], &Device::Cpu).unwrap();
    let bias = Tensor::new(&[10f32, 20.], &Device::Cpu).unwrap();
    let ys = scaled_features(&xs, &scale, Some(&bias)).unwrap();
    assert_eq!(ys.to_vec3::<f32>().unwrap(), [[[10.5, 16.], [11.5, 12.]]]);
    let weights = Tensor::new(&[[[1f32, 2.], [3., 5.]]], &Device::Cpu).unwrap();
    let gradients = (ys * weights).unwrap().sum_all().unwrap().backward().unwrap();
    // dx = dy ⊙ scale, and dscale the sum of dy ⊙ x over the rows.
    assert_eq!(gradients.get(&xs).unwrap().to_vec3::<f32>().unwrap(), [[[0.5, -4.], [1.5, -10.]]]);
    assert_eq!(gradients.get(&scale).unwrap().to_vec1::<f32>().unwrap(), [10., 24.]);
    assert!(gradients.get(&bias).is_none());
    let error = scaled_features(&xs, &bias.narrow(0, 0, 1).unwrap(), None).unwrap_err().to_string();
    assert_eq!(error, "scale of scaled_features: expected shape (2), got [1]");
}
