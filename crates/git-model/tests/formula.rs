//! The formula that stands in for committed weights gives the same numbers here as in Python.

mod common;

use common::{Checkpoint, Golden, fixture_json, hash24, parameter};

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
fn a_tied_checkpoint_holds_its_head_once() {
    let tensors = Golden::load("tied").checkpoint().tensors();
    assert!(tensors.contains_key("git.embeddings.word_embeddings.weight"));
    assert!(tensors.contains_key("output.bias"));
    assert!(!tensors.contains_key("output.weight"));
}
