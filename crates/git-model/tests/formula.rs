//! The formula that stands in for committed weights gives the same numbers here as in Python.

mod common;

use std::collections::HashMap;

use candle_core::Tensor;
use common::{Golden, fixture, fixture_json, hash24, parameter};

#[test]
fn hashes_and_values_equal_those_pinned_by_python() {
    let file = fixture_json("formula_pins.json");
    let pins = file["pins"].as_array().unwrap();
    assert!(pins.len() >= 5);
    for pin in pins {
        let (seed, name) = (pin["seed"].as_u64().unwrap(), pin["name"].as_str().unwrap());
        let shape: Vec<usize> =
            pin["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let hash = hash24(seed, name, shape.iter().product()).last().unwrap();
        assert_eq!(u64::from(hash), pin["last_hash"].as_u64().unwrap(), "{name}");
        let tensor = parameter(seed, name, &shape, pin["scale"].as_f64().unwrap());
        let value = *tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().last().unwrap();
        assert_eq!(value, pin["last_value"].as_f64().unwrap() as f32, "{name}");
    }
}

#[test]
fn every_weight_of_a_checkpoint_equals_the_one_that_python_pickled() {
    let computed = Golden::load("micro").checkpoint().tensors();
    let pickled = candle_core::pickle::read_all(fixture("golden_micro.bin")).unwrap();
    let pickled: HashMap<_, _> = pickled.into_iter().collect();
    assert_eq!(pickled.len(), computed.len() + 3, "beside the weights: a tied head and two position_ids");
    let list = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, weight) in &computed {
        assert_eq!(pickled[name].dims(), weight.dims(), "{name}");
        assert_eq!(list(&pickled[name]), list(weight), "{name}");
    }
}

#[test]
fn a_tied_checkpoint_holds_its_head_once() {
    let tensors = Golden::load("tied").checkpoint().tensors();
    assert!(tensors.contains_key("git.embeddings.word_embeddings.weight"));
    assert!(tensors.contains_key("output.bias"));
    assert!(!tensors.contains_key("output.weight"));
}
