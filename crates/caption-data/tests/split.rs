//! Rows of `datasets.Dataset.train_test_split`, recorded by fixtures/make_splits.py.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use caption_data::{Error, split, train_test_split};
use common::{fnv, json, numbers};
use proptest::prelude::*;
use serde_json::Value;

fn assert_part(rows: &[usize], expected: &Value, what: &str) {
    assert_eq!(rows.len() as u64, expected["len"].as_u64().unwrap(), "{what}");
    let first: Vec<usize> = numbers(&expected["first"]);
    assert_eq!(rows[..first.len()], first, "{what}");
    assert_eq!(fnv(rows.iter().flat_map(|row| (*row as u64).to_le_bytes())), expected["fnv"], "{what}");
}

#[test]
fn two_way_split_deals_the_rows_of_datasets() {
    let cases = json("splits.json");
    let cases = cases["train_test"].as_array().unwrap();
    assert_eq!(cases.len(), 9 * 6 * 2);
    for case in cases {
        let (n, size, seed) = (
            case["n"].as_u64().unwrap(),
            case["test_size"].as_f64().unwrap(),
            case["seed"].as_u64().unwrap(),
        );
        let (train, test) = train_test_split(n as usize, size, seed).unwrap();
        assert_part(&train, &case["train"], &format!("train of {n} rows at {size}, seed {seed}"));
        assert_part(&test, &case["test"], &format!("test of {n} rows at {size}, seed {seed}"));
    }
}

#[test]
fn permutations_are_numpys_for_all_kinds_of_seeds_and_lengths() {
    for case in json("splits.json")["permutations"].as_array().unwrap() {
        let n = case["n"].as_u64().unwrap() as usize;
        if n == 1 {
            continue; // nothing would be left to train on
        }
        let seed = case["seed"].as_str().unwrap().parse().unwrap();
        // One row in the test part, the rest in the train part: together the permutation.
        let (train, test) = train_test_split(n, 0.5 / n as f64, seed).unwrap();
        let rows = [test, train].concat();
        assert_eq!(rows[..n.min(8)], numbers::<usize>(&case["first"]), "{n} rows, seed {seed}");
        assert_eq!(
            fnv(rows.iter().flat_map(|row| (*row as u64).to_le_bytes())),
            case["fnv"],
            "{n} rows, seed {seed}"
        );
    }
}

#[test]
fn three_way_split_deals_the_rows_of_the_recipe() {
    for case in json("splits.json")["train_validation_test"].as_array().unwrap() {
        let (n, seed) = (case["n"].as_u64().unwrap() as usize, case["seed"].as_u64().unwrap());
        let parts = split(n, [0.8, 0.1, 0.1], seed).unwrap();
        assert_part(&parts.train, &case["train"], &format!("train of {n}"));
        assert_part(&parts.validation, &case["validation"], &format!("validation of {n}"));
        assert_part(&parts.test, &case["test"], &format!("test of {n}"));
    }
}

#[test]
fn fractions_that_are_not_exact_in_binary_do_not_move_a_row() {
    let sizes = |n, fractions| {
        let parts = split(n, fractions, 0).unwrap();
        [parts.train.len(), parts.validation.len(), parts.test.len()]
    };
    // 0.1 + 0.2 > 0.3, so ten rows would lose a fourth one.
    assert_eq!(sizes(10, [0.7, 0.1, 0.2]), [7, 1, 2]);
    assert_eq!(sizes(300, [0.7, 0.1, 0.2]), [210, 30, 60]);
    for n in 10usize..2000 {
        let held_out = (3 * n).div_ceil(10);
        assert_eq!(sizes(n, [0.7, 0.1, 0.2])[0], n - held_out, "{n} rows");
    }
}

#[test]
fn impossible_splits_are_refused() {
    let message = |result: Result<_, Error>| match result {
        Err(error) => error.to_string(),
        Ok(split) => panic!("{split:?}"),
    };
    for size in [0.0, 1.0, -0.1, f64::NAN] {
        let text = message(train_test_split(10, size, 0).map(|_| ()));
        assert!(text.contains("between 0 and 1") && text.contains(&size.to_string()), "{text}");
    }
    assert!(message(train_test_split(1, 0.5, 0).map(|_| ())).contains("1 of them would be held out"));
    assert!(message(train_test_split(0, 0.5, 0).map(|_| ())).contains("cannot split 0 rows"));
    let text = split(2, [0.8, 0.1, 0.1], 0).unwrap_err().to_string();
    assert!(text.contains("cannot split 2 rows: fractions of [0.8, 0.1, 0.1]"), "{text}");
    assert!(split(10, [0.8, 0.1, 0.2], 0).unwrap_err().to_string().contains("[0.8, 0.1, 0.2]"));
    assert!(split(10, [0.9, 0.1, 0.0], 0).is_err());
}

proptest! {
    #[test]
    fn every_row_is_dealt_out_once(n in 10usize..3000, seed: u64, a in 0.05f64..0.9, b in 0.05f64..0.9) {
        let (validation, test) = (a * (1.0 - b), b * (1.0 - a).min(0.9));
        prop_assume!(validation + test < 0.9);
        let parts = split(n, [1.0 - validation - test, validation, test], seed);
        prop_assume!(parts.is_ok());
        let mut rows = parts.map(|p| [p.train, p.validation, p.test].concat()).unwrap();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..n).collect::<Vec<_>>());
    }
}
