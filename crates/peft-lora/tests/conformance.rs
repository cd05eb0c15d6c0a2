//! The requirements on every adapter, checked for a table of configurations.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use candle_core::{DType, Tensor};
use candle_nn::{Optimizer, SGD};
use common::{LINEAR_LAYERS, Net, adapted, adapted_as, config, difference, ids, loss, training, values};
use peft_lora::{Adapter, InitLoraWeights, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, FrozenBuilder};

/// Configurations with different targets and scales. Their adapters have an effect from the start.
fn table() -> Vec<(&'static str, LoraConfig)> {
    vec![
        ("one name", config(["query"])),
        ("several names", config(["query", "value", "head"])),
        ("full paths", config(["blocks.1.mlp.fc1", "stem"])),
        ("regex", config(r"blocks\.[02]\.(key|mlp\.fc.)")),
        ("all linear", config("all-linear")),
        (
            "all but some",
            LoraConfig { exclude_modules: Some([r"key", "fc2"].into()), ..config("all-linear") },
        ),
        ("rank 1", LoraConfig { r: 1, lora_alpha: 1.0, ..config(["query", "fc2"]) }),
        ("rank above width", LoraConfig { r: 20, lora_alpha: 5.0, ..config(["fc1", "head"]) }),
        ("negative alpha", LoraConfig { lora_alpha: -3.0, ..config(["value"]) }),
        ("rslora", LoraConfig { use_rslora: true, ..config(["key", "value"]) }),
        (
            "patterns",
            LoraConfig {
                rank_pattern: vec![("blocks.0.query".into(), 2), ("query".into(), 3)],
                alpha_pattern: vec![("value".into(), 11.0)],
                ..config(["query", "value"])
            },
        ),
        (
            "one layer",
            LoraConfig {
                layers_to_transform: vec![1],
                layers_pattern: vec!["blocks".into()],
                ..config(["query", "fc1", "head"])
            },
        ),
        ("dropout", LoraConfig { lora_dropout: 0.5, ..config(["query", "fc1"]) }),
    ]
}

fn base_output() -> Tensor {
    Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids())
}

/// Gradient descent by candle's own optimizer, for enough steps that every parameter changes.
fn train(net: &Net, adapter: &Adapter, steps: u64) {
    let mut optimizer = SGD::new(adapter.parameters().into_values().collect(), 0.05).unwrap();
    for step in 0..steps {
        optimizer.backward_step(&loss(&net.forward(&ids(), &training(step)))).unwrap();
    }
}

#[test]
fn a_new_adapter_changes_nothing() {
    for init_lora_weights in [InitLoraWeights::Default, InitLoraWeights::Gaussian] {
        for (name, config) in table() {
            let (net, adapter) = adapted(LoraConfig { init_lora_weights, ..config });
            assert_eq!(values(&net.infer(&ids())), values(&base_output()), "{name}");
            assert!(adapter.effect().unwrap().values().all(|effect| *effect == 0.0), "{name}");
        }
    }
}

#[test]
fn a_random_adapter_has_an_effect_and_disabling_it_restores_the_base_exactly() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        let acting = net.infer(&ids());
        assert!(difference(&acting, &base_output()) > 0.02, "{name}");
        assert!(adapter.effect().unwrap().values().all(|effect| *effect > 0.02), "{name}");
        {
            let _outer = adapter.disable();
            drop(adapter.disable());
            assert_eq!(values(&net.infer(&ids())), values(&base_output()), "{name}");
        }
        assert_eq!(values(&net.infer(&ids())), values(&acting), "{name}");
    }
}

#[test]
fn merged_equals_unmerged_and_unmerging_is_exact() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        let before = net.infer(&ids());
        let weights: Vec<_> = adapter.layers().map(|layer| values(&layer.base().weight().unwrap())).collect();

        adapter.merge().unwrap();
        let merged = net.infer(&ids());
        let error = difference(&merged, &before);
        assert!(error < 1e-6, "{name}: {error:e}");
        assert_ne!(values(&merged), values(&before), "{name}: the sum is made in another order");
        assert_eq!(
            adapter.merge().unwrap_err().to_string(),
            "the adapter is merged already; unmerge it first"
        );
        assert_eq!(values(&net.infer(&ids())), values(&merged), "{name}: merging twice");
        {
            let _base = adapter.disable();
            assert_eq!(values(&net.infer(&ids())), values(&base_output()), "{name}");
        }

        adapter.unmerge().unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&before), "{name}");
        let unmerged: Vec<_> =
            adapter.layers().map(|layer| values(&layer.base().weight().unwrap())).collect();
        assert_eq!(unmerged, weights, "{name}");
        assert!(adapter.unmerge().is_err());
    }
}

#[test]
fn merged_weights_equal_those_that_merge_sets() {
    let (net, adapter) = adapted(config("all-linear"));
    let weights: std::collections::HashMap<_, _> = adapter.merged_weights().map(Result::unwrap).collect();
    assert_eq!(weights.len(), LINEAR_LAYERS - 1);
    adapter.merge().unwrap();

    /// A checkpoint whose base weights are replaced by the merged ones.
    struct Merged(std::collections::HashMap<String, Tensor>);
    impl train_ops::LayerBuilder for Merged {
        fn linear(
            &mut self,
            path: &str,
            weight: Tensor,
            bias: Option<Tensor>,
        ) -> train_ops::Result<std::sync::Arc<dyn train_ops::LinearLayer>> {
            let weight = self.0.remove(&format!("{path}.weight")).unwrap_or(weight);
            FrozenBuilder.linear(path, weight, bias)
        }

        fn parameter(&mut self, _path: &str, value: Tensor) -> train_ops::Result<Tensor> {
            Ok(value)
        }
    }
    let mut checkpoint = Merged(weights);
    let plain = Net::build(&mut checkpoint, DType::F32).unwrap();
    assert!(checkpoint.0.is_empty(), "{:?}", checkpoint.0.keys());
    assert_eq!(values(&plain.infer(&ids())), values(&net.infer(&ids())));
}

#[test]
fn a_saved_adapter_opens_with_the_same_outputs() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config.clone());
        train(&net, &adapter, 2);
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path()).unwrap();

        let mut builder = LoraBuilder::from_pretrained(dir.path()).unwrap();
        let opened_net = Net::build(&mut builder, DType::F32).unwrap();
        let opened = builder.finish().unwrap();
        assert_eq!(values(&opened_net.infer(&ids())), values(&net.infer(&ids())), "{name}");
        assert_eq!(opened.config(), adapter.config(), "{name}");
        assert_eq!(opened.report(), adapter.report(), "{name}");

        let (net, adapter) = adapted(config);
        assert_ne!(values(&net.infer(&ids())), values(&opened_net.infer(&ids())), "{name}");
        adapter.load_weights(dir.path()).unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&opened_net.infer(&ids())), "{name}");
    }
}

#[test]
fn every_adapter_and_nothing_else_gets_a_gradient() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        let gradients = loss(&net.forward(&ids(), &training(0))).backward().unwrap();
        for (parameter, var) in adapter.parameters() {
            let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name}: none for {parameter}"));
            assert_eq!(gradient.dims(), var.dims());
            assert!(values(gradient).iter().any(|value| *value != 0.0), "{name}: zero for {parameter}");
        }
        // Candle keeps a gradient of every constant operand of its own products. Activations have three
        // dimensions. A gradient of two dimensions belongs to a parameter, or to a weight that must not get
        // one.
        let matrices = gradients.get_ids().filter(|id| gradients.get_id(**id).unwrap().rank() == 2);
        assert_eq!(matrices.count(), adapter.parameters().len(), "{name}");
        assert!(!net.infer(&ids()).track_op(), "{name}: inference records a graph");
    }
}

#[test]
fn with_the_default_initialisation_b_gets_gradients_before_a() {
    let (net, adapter) =
        adapted(LoraConfig { init_lora_weights: InitLoraWeights::Default, ..config("all-linear") });
    let is_zero = |step| {
        let gradients = loss(&net.forward(&ids(), &training(step))).backward().unwrap();
        let zero = |name: &str, var| {
            (name.contains("lora_A"), values(gradients.get(var).unwrap()).iter().all(|g| *g == 0.0))
        };
        adapter.parameters().iter().map(|(name, var)| zero(name, var)).collect::<Vec<_>>()
    };
    assert!(is_zero(0).iter().all(|(is_a, zero)| is_a == zero), "A's gradient is s dh x with dh = dy B = 0");
    train(&net, &adapter, 1);
    assert!(is_zero(1).iter().all(|(_, zero)| !zero));
}

#[test]
fn training_changes_every_adapter_and_leaves_the_base_alone() {
    for (name, config) in table() {
        let (net, adapter) = adapted(config);
        let parameters = |adapter: &Adapter| -> Vec<_> {
            adapter.parameters().into_iter().map(|(name, var)| (name, values(&var))).collect()
        };
        let (before, loss_before) =
            (parameters(&adapter), loss(&net.infer(&ids())).to_scalar::<f32>().unwrap());
        train(&net, &adapter, 5);
        for (before, after) in before.iter().zip(parameters(&adapter)) {
            assert_ne!(*before, after, "{name}");
        }
        assert!(loss(&net.infer(&ids())).to_scalar::<f32>().unwrap() < loss_before, "{name}");
        let _base = adapter.disable();
        assert_eq!(values(&net.infer(&ids())), values(&base_output()), "{name}");
    }
}

#[test]
fn dropout_is_active_only_in_training_and_differs_between_layers_and_steps() {
    let plain = config(["query", "key"]);
    let (net, _) = adapted(LoraConfig { lora_dropout: 0.5, ..plain.clone() });
    let (reference, _) = adapted(plain);
    assert_eq!(values(&net.infer(&ids())), values(&reference.infer(&ids())));
    let run = |net: &Net, step| values(&net.forward(&ids(), &training(step)));
    assert_ne!(run(&net, 0), run(&reference, 0));
    assert_ne!(run(&net, 0), run(&net, 1));
    assert_eq!(run(&net, 0), run(&net, 0));
    assert_eq!(run(&reference, 0), run(&reference, 1));
}

#[test]
fn a_bf16_base_is_merged_in_f32_and_rounded_once() {
    let (net, adapter) = adapted_as(config(["query", "fc1"]), DType::BF16);
    let before = net.infer(&ids());
    for layer in adapter.layers() {
        assert_eq!(layer.base().dtype(), DType::BF16);
        assert_eq!(layer.delta_weight().unwrap().dtype(), DType::F32);
        let sum = (layer.base().weight().unwrap().to_dtype(DType::F32).unwrap()
            + layer.delta_weight().unwrap())
        .unwrap();
        let expected = sum.to_dtype(DType::BF16).unwrap();
        assert_eq!(layer.merged_weight().unwrap().dtype(), DType::BF16);
        assert_eq!(values(&layer.merged_weight().unwrap()), values(&expected));
    }
    adapter.merge().unwrap();
    // bf16 has 8 bits of precision: half a unit in the last place is 2^-9 of a weight.
    let error = difference(&net.infer(&ids()), &before);
    assert!(error > 0.0 && error < 2f32.powi(-8), "{error:e}");
    adapter.unmerge().unwrap();
    assert_eq!(values(&net.infer(&ids())), values(&before));
}

#[test]
fn a_merge_that_is_not_finite_changes_nothing() {
    let (net, adapter) = adapted(config("all-linear"));
    let last = adapter.layers().last().unwrap();
    let infinite = (last.b().ones_like().unwrap() * f64::INFINITY).unwrap();
    let before = last.b().copy().unwrap();
    last.b().set(&infinite).unwrap();
    let error = adapter.merge().unwrap_err().to_string();
    assert_eq!(error, "cannot merge: stem.weight holds NaN or infinite values");
    assert!(!adapter.is_merged());
    last.b().set(&before).unwrap();
    assert!(values(&net.infer(&ids())).iter().all(|value| value.is_finite()));
}

#[test]
fn a_merged_adapter_refuses_to_train_and_to_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (net, adapter) = adapted(config(["stem"]));
    adapter.save(dir.path()).unwrap();
    adapter.merge().unwrap();
    let xs = Tensor::ones((3, 6), DType::F32, &candle_core::Device::Cpu).unwrap();
    let error = net.stem.forward(&xs, &training(0)).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "cannot train while the adapter is merged into stem; unmerge it first");
    let error = adapter.load_weights(dir.path()).unwrap_err().to_string();
    assert_eq!(error, "cannot load weights while the adapter is merged into stem; unmerge it first");
    adapter.unmerge().unwrap();
    adapter.load_weights(dir.path()).unwrap();
    let _ = net.forward(&ids(), &training(0));
}

#[test]
fn the_update_is_the_scaled_product_of_b_and_a() {
    let device = candle_core::Device::Cpu;
    for (use_rslora, scale) in [(false, 5.0 / 4.0), (true, 5.0 / 2.0)] {
        let options = LoraConfig {
            r: 4,
            lora_alpha: 5.0,
            use_rslora,
            target_modules: ["layer"].into(),
            ..LoraConfig::default()
        };
        let mut builder = LoraBuilder::new(options).unwrap();
        let weight = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &device).unwrap();
        let layer = train_ops::LayerBuilder::linear(&mut builder, "layer", weight, None).unwrap();
        let adapter = builder.finish().unwrap();
        let lora = adapter.layers().next().unwrap();
        assert_eq!(lora.scale(), scale);
        let a = [[1f32, 0.], [0., 1.], [2., 0.], [0., 3.]];
        let b = [[1f32, 0., 0., 0.], [0., 1., 0., 1.], [1., 1., 1., 1.]];
        lora.a().set(&Tensor::new(&a, &device).unwrap()).unwrap();
        lora.b().set(&Tensor::new(&b, &device).unwrap()).unwrap();
        // Computed by hand: B A = [[1, 0], [0, 4], [3, 4]]; x = (1, -1).
        let s = scale as f32;
        let delta = lora.delta_weight().unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(delta, [[s, 0.], [0., 4. * s], [3. * s, 4. * s]]);
        let xs = Tensor::new(&[[1f32, -1.]], &device).unwrap();
        let ys = layer.forward(&xs, &ForwardContext::inference()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(ys, [[-1. + s, -1. - 4. * s, -1. - s]]);
    }
}

#[test]
fn initial_weights_depend_on_seed_and_path_and_have_the_documented_spread() {
    let build = |seed, init_lora_weights| {
        let config = LoraConfig {
            r: 64,
            init_lora_weights,
            target_modules: "all-linear".into(),
            ..LoraConfig::default()
        };
        let mut builder = LoraBuilder::new(config).unwrap().seed(seed);
        let weight = Tensor::zeros((96, 400), DType::F32, &candle_core::Device::Cpu).unwrap();
        for path in ["one", "two"] {
            train_ops::LayerBuilder::linear(&mut builder, path, weight.copy().unwrap(), None).unwrap();
        }
        let adapter = builder.finish().unwrap();
        adapter.layers().map(|layer| (values(layer.a()), values(layer.b()))).collect::<Vec<_>>()
    };
    let layers = build(3, InitLoraWeights::Random);
    assert_eq!(layers, build(3, InitLoraWeights::Random));
    assert_ne!(layers[0], layers[1]);
    assert_ne!(layers, build(4, InitLoraWeights::Random));

    let moments = |values: &[f32]| {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    };
    let check = |values: &[f32], std: f64, largest: f64| {
        let (mean, got) = moments(values);
        let n = values.len() as f64;
        assert!(mean.abs() < 5.0 * std / n.sqrt(), "mean {mean}");
        assert!((got / std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "standard deviation {got}, expected {std}");
        assert!(values.iter().all(|v| f64::from(v.abs()) <= largest), "beyond {largest}");
    };
    let uniform = |bound: f64| (bound / 3f64.sqrt(), bound);
    let (std, bound) = uniform(1.0 / 400f64.sqrt());
    check(&layers[0].0, std, bound);
    let (std, bound) = uniform(1.0 / 64f64.sqrt());
    check(&layers[0].1, std, bound);
    let gaussian = build(3, InitLoraWeights::Gaussian);
    check(&gaussian[0].0, 1.0 / 64.0, 6.0 / 64.0);
    assert!(gaussian[0].1.iter().all(|value| *value == 0.0));
}
