//! Several adapters on one model: activation, combinations, adapters by sample, replacement while another thread computes.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use common::{Net, adapted, config, difference, fixture, ids, loss, tensors, training, values};
use peft_lora::{Adapter, Adapters, BASE_ADAPTER, Bias, Combination, Error, LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, FrozenBuilder, LayerBuilder as _, enter};

/// The model with the adapters `first` and `second` of PEFT, the first as `default` too.
fn several() -> (Net, Adapters) {
    let mut builder = LoraBuilder::from_pretrained(fixture("variants/first")).unwrap();
    let net = Net::build(&mut builder, DType::F32).unwrap();
    let adapters = builder.finish().unwrap().adapters();
    for name in ["first", "second"] {
        adapters.load(name, fixture("variants").join(name)).unwrap();
    }
    (net, adapters)
}

#[test]
fn active_adapters_act_one_after_another_as_in_peft() {
    let expected = tensors("variants.safetensors");
    let (net, adapters) = several();
    assert_eq!(
        (adapters.names().join(" "), adapters.active()),
        ("default first second".into(), vec!["default".into()])
    );
    for active in [vec!["first"], vec!["second"], vec!["first", "second"]] {
        adapters.activate(active.iter().copied()).unwrap();
        let of_peft = &expected[&format!("active.{}", active.join("+"))];
        let output = net.infer(&ids());
        let error = difference(&output, of_peft);
        assert!(error < 2e-5, "{active:?}: {error:e}");
        adapters.merge().unwrap();
        let error = difference(&net.infer(&ids()), &output);
        assert!(error < 2e-6, "{active:?} merged: {error:e}");
        adapters.unmerge().unwrap();
    }
    adapters.activate([]).unwrap();
    let base = Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids());
    assert_eq!(values(&net.infer(&ids())), values(&base));
}

#[test]
fn all_active_adapters_are_trained_and_no_others() {
    let (net, adapters) = several();
    adapters.activate(["first", "second"]).unwrap();
    let gradients = loss(&net.forward(&ids(), &training(0))).backward().unwrap();
    for (name, is_trained) in [("first", true), ("second", true), ("default", false)] {
        for (parameter, var) in adapters.get(name).unwrap().parameters() {
            assert_eq!(gradients.get(&var).is_some(), is_trained, "{name}: {parameter}");
        }
    }
}

#[test]
fn each_sample_can_have_its_own_adapter() {
    let (net, adapters) = several();
    let names = ["second", BASE_ADAPTER, "first"];
    let pass = || ForwardContext::inference().with_adapters(names);
    let output = net.forward(&ids(), &pass());
    let error = difference(&output, &tensors("variants.safetensors")["by_sample"]);
    assert!(error < 2e-5, "{error:e}");
    // Each row has the same bits as in a batch of its own, whatever is active.
    for (sample, name) in names.into_iter().enumerate() {
        adapters.activate((name != BASE_ADAPTER).then_some(name)).unwrap();
        let row = |tensor: &Tensor| tensor.narrow(0, sample, 1).unwrap();
        assert_eq!(values(&row(&output)), values(&net.infer(&row(&ids()))), "{name}");
    }
    assert_eq!(values(&net.forward(&ids(), &pass())), values(&output));
    // A pass that the thread has entered counts where a model makes its own context.
    let entered = enter(pass());
    assert_eq!(values(&net.infer(&ids())), values(&output));
    drop(entered);
    let same = ForwardContext::inference().with_adapters(["second"; 3]);
    adapters.activate(["second"]).unwrap();
    assert_eq!(values(&net.forward(&ids(), &same)), values(&net.infer(&ids())));
}

#[test]
fn adapters_by_sample_that_cannot_be_are_refused() {
    let (net, adapters) = several();
    let error = |ctx: ForwardContext| {
        let xs = Tensor::ones((3, 4, 6), DType::F32, &Device::Cpu).unwrap();
        let error =
            net.value(0).forward(&xs.narrow(2, 0, 1).unwrap().repeat((1, 1, 8)).unwrap(), &ctx).unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    let named = |names: &[&str]| ForwardContext::inference().with_adapters(names.iter().copied());
    let message = error(named(&["first", "third", "first"]));
    assert_eq!(message, "there is no adapter third; the model has default, first, second");
    let message = error(named(&["first", "second"]));
    assert!(message.contains("[3, 4, 8] cannot be divided among 2 adapter names"), "{message}");
    let message = error(training(0).with_adapters(["first"; 3]));
    assert!(message.contains("in a training pass"), "{message}");
    adapters.merge().unwrap();
    let message = error(named(&["first"; 3]));
    assert!(message.contains("cannot select adapters by sample while the adapter is merged"), "{message}");
}

#[test]
fn combinations_have_the_numbers_of_peft() {
    let expected = tensors("variants.safetensors");
    let (net, adapters) = several();
    let (plain, positive) = ([("first", 0.7), ("second", -0.4)], [("first", 0.7), ("second", 1.3)]);
    for (name, parts, combination) in [
        ("linear", plain, Combination::Linear),
        ("cat", plain, Combination::Cat),
        ("svd", plain, Combination::Svd { rank: None }),
        ("svd_rank", positive, Combination::Svd { rank: Some(2) }),
    ] {
        let adapter = adapters.combine(name, &parts, combination).unwrap();
        adapters.activate([name]).unwrap();
        let error = difference(&net.infer(&ids()), &expected[&format!("combination.{name}.output")]);
        assert!(error < 2e-5, "{name}: {error:e}");
        let layers =
            expected.keys().filter(|key| key.starts_with(&format!("combination.{name}.delta."))).count();
        assert_eq!(adapter.layers().count(), layers);
        for layer in adapter.layers() {
            let of_peft = |part: &str| &expected[&format!("combination.{name}.{part}.{}", layer.path())];
            let error = difference(&layer.delta_weight().unwrap(), of_peft("delta"));
            assert!(error < 2e-5, "{name}, {}: {error:e}", layer.path());
            assert_eq!((layer.a().dims(), layer.b().dims()), (of_peft("a").dims(), of_peft("b").dims()));
            // The signs of singular vectors are arbitrary.
            for (own, of_peft) in [(layer.a(), of_peft("a")), (layer.b(), of_peft("b"))] {
                let [own, of_peft] = [own.as_tensor(), of_peft].map(|tensor| match name.starts_with("svd") {
                    true => tensor.abs().unwrap(),
                    false => tensor.clone(),
                });
                assert!(difference(&own, &of_peft) < 5e-5, "{name}, {}", layer.path());
            }
        }
        // It is an adapter like any other.
        let dir = tempfile::tempdir().unwrap();
        adapter.save(dir.path()).unwrap();
        let output = net.infer(&ids());
        adapters.load(&format!("{name} again"), dir.path()).unwrap();
        adapters.activate([format!("{name} again").as_str()]).unwrap();
        assert_eq!(values(&net.infer(&ids())), values(&output), "{name}");
    }
}

#[test]
fn one_adapter_with_weight_1_is_itself() {
    let (net, adapters) = several();
    for combination in [Combination::Linear, Combination::Cat, Combination::Svd { rank: None }] {
        let name = format!("{combination:?}");
        adapters.activate(["second"]).unwrap();
        let expected = net.infer(&ids());
        adapters.combine(&name, &[("second", 1.0)], combination).unwrap();
        adapters.activate([name.as_str()]).unwrap();
        assert!(difference(&net.infer(&ids()), &expected) < 1e-6, "{name}");
    }
}

#[test]
fn combinations_that_cannot_be_are_refused() {
    let (_net, adapters) = several();
    adapters.add("wide", &LoraConfig { r: 5, ..config(["query"]) }, 0).unwrap();
    adapters.add("dora", &LoraConfig { use_dora: true, ..config(["query"]) }, 0).unwrap();
    let refused = |name: &str, parts: &[(&str, f64)], combination| {
        adapters.combine(name, parts, combination).unwrap_err().to_string()
    };
    let two = [("first", 1.0), ("wide", 1.0)];
    for (message, expected) in [
        (
            refused("new", &two, Combination::Linear),
            "the ranks of its adapters differ, [3, 5]; use Cat or Svd",
        ),
        (refused("new", &[], Combination::Cat), "cannot combine new: it is made of no adapters"),
        (refused("new", &[("first", f64::NAN)], Combination::Cat), "its weight is NaN"),
        (refused("new", &[("dora", 1.0)], Combination::Cat), "cannot combine dora: use_dora is set"),
        (refused("new", &[("third", 1.0)], Combination::Cat), "there is no adapter third"),
        (refused("first", &two, Combination::Cat), "there is an adapter first already"),
        (refused(BASE_ADAPTER, &two, Combination::Cat), "cannot be called __base__"),
        (refused("new", &two, Combination::Svd { rank: Some(0) }), "a rank must be at least 1"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    assert!(!adapters.names().contains(&"new".to_owned()));
}

#[test]
fn adapters_that_contradict_each_other_are_not_active_together() {
    let (_net, adapters) = several();
    let saves = |module: &str| LoraConfig { modules_to_save: vec![module.into()], ..config(["query"]) };
    adapters.add("one", &saves("head"), 0).unwrap();
    adapters.add("two", &saves("head"), 0).unwrap();
    adapters.add("three", &saves("stem"), 0).unwrap();
    adapters.add("four", &LoraConfig { bias: Bias::LoraOnly, ..config(["stem"]) }, 0).unwrap();
    let error = adapters.activate(["one", "two"]).unwrap_err().to_string();
    assert!(error.contains("one and two both replace head.weight"), "{error}");
    let error = adapters.activate(["three", "four"]).unwrap_err().to_string();
    assert!(error.contains("three and four both replace stem.bias"), "{error}");
    adapters.activate(["one", "three"]).unwrap();

    let error = adapters.add("five", &saves("embed"), 0).unwrap_err().to_string();
    assert!(error.contains("embed.weight is outside the model's linear layers"), "{error}");
    let (_net, adapter) = adapted(saves("embed"));
    let error = adapter.adapters().remove("default").unwrap_err().to_string();
    assert!(error.contains("default cannot be replaced: embed.weight"), "{error}");
}

#[test]
fn a_removed_adapter_no_longer_acts() {
    let (net, adapters) = several();
    let base = Net::build(&mut FrozenBuilder, DType::F32).unwrap().infer(&ids());
    adapters.activate(["second"]).unwrap();
    adapters.remove("second").unwrap();
    assert_eq!(values(&net.infer(&ids())), values(&base));
    assert!(matches!(adapters.get("second"), Err(Error::UnknownAdapter { .. })));
    assert!(matches!(adapters.activate(["second"]), Err(Error::UnknownAdapter { .. })));
    adapters.load("second", fixture("variants/second")).unwrap();
}

#[test]
fn a_replaced_adapter_may_have_other_layers_ranks_and_scales_and_a_bad_file_replaces_nothing() {
    let (net, adapters) = several();
    adapters.activate(["second"]).unwrap();
    let expected = net.infer(&ids());
    adapters.activate(["default"]).unwrap();
    let before = net.infer(&ids());
    adapters.merge().unwrap();
    assert!(matches!(adapters.hot_swap("default", fixture("variants/second")), Err(Error::Merged { .. })));
    adapters.unmerge().unwrap();
    assert!(adapters.hot_swap("default", fixture("variants/nothing")).is_err());
    assert!(matches!(
        adapters.hot_swap("third", fixture("variants/second")),
        Err(Error::UnknownAdapter { .. })
    ));
    assert_eq!(values(&net.infer(&ids())), values(&before));

    let replaced = adapters.hot_swap("default", fixture("variants/second")).unwrap();
    assert_eq!(values(&net.infer(&ids())), values(&expected));
    assert_eq!(replaced.report().modules().len(), 6);
}

/// Layers in a row, each of which the adapter multiplies by the same number `1 + value`, so that a pass that mixes weights is
/// seen in its result.
fn chain(layers: usize) -> (Vec<Arc<dyn train_ops::LinearLayer>>, Adapter) {
    let options = LoraConfig { r: 1, lora_alpha: 1.0, ..config("all-linear") };
    let mut builder = LoraBuilder::new(options).unwrap();
    let one = || Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
    let layers =
        (0..layers).map(|layer| builder.linear(&format!("layers.{layer}"), one(), None).unwrap()).collect();
    (layers, builder.finish().unwrap())
}

fn save_with(adapter: &Adapter, value: f32) -> tempfile::TempDir {
    for var in adapter.parameters().values() {
        let number = if value == 0.0 { 0.0 } else { value.sqrt() };
        var.set(&Tensor::full(number, (1, 1), &Device::Cpu).unwrap()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    adapter.save(dir.path()).unwrap();
    dir
}

#[test]
fn a_pass_sees_all_old_or_all_new_weights_while_another_thread_replaces_them() {
    let (layers, adapter) = chain(12);
    // 1 + 1 = 2 or 1 + 0.5 = 1.5 in each layer: a pass gives 2^12 or 1.5^12, and every mix something between.
    let dirs = [save_with(&adapter, 0.5), save_with(&adapter, 1.0)];
    let adapters = adapter.adapters();
    adapters.hot_swap("default", dirs[0].path()).unwrap();
    let expected = [1.5f32.powi(12), 2f32.powi(12)];
    let (is_done, seen) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        for enters in [false, true] {
            let (layers, is_done, seen) = (&layers, &is_done, &seen);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    let pass = ForwardContext::inference();
                    // A model that makes its own contexts belongs to the pass that the thread has entered.
                    let entered = enters.then(|| enter(pass.clone()));
                    let mut xs = Tensor::ones((1, 1), DType::F32, &Device::Cpu).unwrap();
                    for layer in layers {
                        let ctx = if enters { ForwardContext::inference() } else { pass.clone() };
                        xs = layer.forward(&xs, &ctx).unwrap();
                        std::thread::yield_now();
                    }
                    drop(entered);
                    let value = values(&xs)[0];
                    let which = expected.iter().position(|expected| (value / expected - 1.0).abs() < 1e-4);
                    seen[which.unwrap_or_else(|| panic!("a mix: {value}"))].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for swap in 1..400 {
            adapters.hot_swap("default", dirs[swap % 2].path()).unwrap();
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{seen:?}");
}
