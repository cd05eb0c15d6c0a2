//! Compared with rows of `datasets.Dataset.train_test_split`, recorded by fixtures/make_splits.py.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use caption_data::{Error, Split, split, split_by_picture, train_test_split};
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
fn two_way_splits_equal_those_of_datasets() {
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
        // One row in the test part, the rest in the train part: together they are the permutation.
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
fn three_way_splits_equal_two_splits_of_datasets() {
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
    // In floating point 0.1 + 0.2 > 0.3, which must not take a fourth row out of ten.
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
    for (rows, fractions, words) in [
        (
            2,
            [0.8, 0.1, 0.1],
            "cannot split 2 rows: each of the 3 parts of [0.8, 0.1, 0.1] needs at least one",
        ),
        (1, [0.8, 0.2, 0.0], "cannot split 1 rows: each of the 2 parts"),
        (0, [1.0, 0.0, 0.0], "cannot split 0 rows: each of the 1 parts"),
        (10, [0.8, 0.1, 0.2], "add up to 1, got [0.8, 0.1, 0.2]"),
        (10, [1.2, -0.1, -0.1], "between 0 and 1"),
        (10, [f64::NAN, 0.5, 0.5], "between 0 and 1"),
        (10, [0.0, 0.5, 0.5], "for training must be above 0"),
    ] {
        let text = message(split(rows, fractions, 0).map(|_| ()));
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn parts_of_fraction_0_are_empty_and_the_others_equal_those_of_datasets() {
    // From train_test_split(test_size=0.2, seed=42) of datasets 5.2.
    let expected: [(usize, &[usize], &[usize]); 4] = [
        (2, &[0], &[1]),
        (5, &[2, 3, 1, 0], &[4]),
        (7, &[6, 4, 1, 5, 0], &[3, 2]),
        (9, &[7, 2, 4, 6, 1, 5, 8], &[3, 0]),
    ];
    for (n, train, held_out) in expected {
        let parts = |fractions| split(n, fractions, 42).unwrap();
        let of = |validation: &[usize], test: &[usize]| Split {
            train: train.to_vec(),
            validation: validation.to_vec(),
            test: test.to_vec(),
        };
        assert_eq!(parts([0.8, 0.0, 0.2]), of(&[], held_out), "{n} rows");
        assert_eq!(parts([0.8, 0.2, 0.0]), of(held_out, &[]), "{n} rows");
    }
}

#[test]
fn with_a_training_fraction_of_1_all_rows_keep_their_order() {
    for n in 1..10 {
        let parts = split(n, [1.0, 0.0, 0.0], 42).unwrap();
        assert_eq!(parts, Split { train: (0..n).collect(), validation: vec![], test: vec![] });
    }
}

#[test]
fn each_part_of_a_tiny_dataset_has_a_row_where_there_are_as_many_rows_as_parts() {
    for n in 3..10 {
        let Split { train, validation, test } = split(n, [0.8, 0.1, 0.1], 42).unwrap();
        assert!(!train.is_empty() && !validation.is_empty() && !test.is_empty(), "{n} rows");
        let mut rows = [train, validation, test].concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..n).collect::<Vec<_>>());
    }
    // From 6 rows on, datasets makes the same split: a second train_test_split(test_size=0.5, seed=42) of the
    // held-out rows.
    let parts = split(9, [0.8, 0.1, 0.1], 42).unwrap();
    assert_eq!(parts, Split { train: vec![7, 2, 4, 6, 1, 5, 8], validation: vec![3], test: vec![0] });
    // Rounding would leave nothing to train on, or nothing to validate on.
    assert_eq!(split(10, [0.02, 0.96, 0.02], 1).unwrap().train.len(), 1);
    assert_eq!(split(100, [0.8, 0.001, 0.199], 1).unwrap().validation.len(), 1);
}

#[test]
fn rows_of_one_picture_stay_together_and_are_counted_where_they_do_not() {
    // Five captions per picture, as in COCO.
    let pictures: Vec<u128> = (0..90).map(|row| row / 5).collect();
    let rows = split(90, [0.8, 0.1, 0.1], 42).unwrap();
    assert_eq!(rows.trained_on(&pictures), [9, 9]);

    let together = split_by_picture(&pictures, [0.8, 0.1, 0.1], 42).unwrap();
    assert_eq!(together.trained_on(&pictures), [0, 0]);
    let of_pictures = split(18, [0.8, 0.1, 0.1], 42).unwrap();
    let expand = |numbers: &[usize]| numbers.iter().flat_map(|n| 5 * n..5 * n + 5).collect::<Vec<_>>();
    assert_eq!(together.test, expand(&of_pictures.test));
    assert_eq!(together.train, expand(&of_pictures.train));

    let distinct: Vec<u128> = (0..90).rev().collect();
    assert_eq!(split_by_picture(&distinct, [0.8, 0.1, 0.1], 42).unwrap(), rows);
    let error = split_by_picture(&[1, 1, 2, 2], [0.8, 0.1, 0.1], 42).unwrap_err().to_string();
    assert!(error.contains("2 rows"), "{error}");
}

proptest! {
    #[test]
    fn every_row_is_in_exactly_one_part(n in 10usize..3000, seed: u64, a in 0.05f64..0.9, b in 0.05f64..0.9) {
        let (validation, test) = (a * (1.0 - b), b * (1.0 - a).min(0.9));
        prop_assume!(validation + test < 0.9);
        let parts = split(n, [1.0 - validation - test, validation, test], seed);
        prop_assume!(parts.is_ok());
        let mut rows = parts.map(|p| [p.train, p.validation, p.test].concat()).unwrap();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..n).collect::<Vec<_>>());
    }
}
