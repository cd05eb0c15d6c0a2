//! The formula that stands in for committed weights, and comparisons of tensors.
//!
//! `fixtures/formula.py` defines every weight, pixel and adapter by its seed, name and index; this file computes the same
//! numbers, bit for bit.

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The top 24 bits of the first `count` outputs of SplitMix64, started from FNV-1a-64 of `name` XOR `seed`.
pub(crate) fn hash24(seed: u64, name: &str, count: usize) -> impl Iterator<Item = u32> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv) ^ seed;
    (1..=count as u64).map(move |i| {
        let x = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as u32
    })
}

/// Uniform values in `centre ± spread / 2`.
fn values(seed: u64, name: &str, shape: &[usize], centre: f32, spread: f32) -> Tensor {
    let value = |hash: u32| centre + spread * ((hash as f32 - 8_388_608.0) / 16_777_216.0);
    let data: Vec<f32> = hash24(seed, name, shape.iter().product()).map(value).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// A weight, bias or adapter of the model, by its name in the file.
pub(crate) fn parameter(seed: u64, name: &str, shape: &[usize], scale: f64) -> Tensor {
    let (centre, spread) = match name {
        _ if name.ends_with(".weight") && shape.len() == 1 => (1.0, 0.125),
        _ if name.ends_with(".bias") => (0.0, 0.125),
        _ => (0.0, (scale / 16.0) as f32),
    };
    values(seed, name, shape, centre, spread)
}

/// Normalised pixel values, uniform in [-2, 2).
pub(crate) fn pixels(seed: u64, name: &str, shape: &[usize]) -> Tensor {
    values(seed, name, shape, 0.0, 4.0)
}

/// The largest absolute difference, as a share of the largest expected magnitude.
pub(crate) fn max_error(actual: &Tensor, expected: &Tensor) -> f64 {
    let (a, e) = flat(actual, expected);
    let largest = e.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    // `max` would ignore a NaN; a NaN anywhere has to fail the comparison.
    let worst = a.iter().zip(&e).map(|(a, e)| (a - e).abs());
    worst.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) }) / largest
}

/// The norm of the difference, as a share of the expected norm.
pub(crate) fn norm_error(actual: &Tensor, expected: &Tensor) -> f64 {
    let (a, e) = flat(actual, expected);
    let squares: f64 = a.iter().zip(&e).map(|(a, e)| (a - e).powi(2)).sum();
    squares.sqrt() / e.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn flat(actual: &Tensor, expected: &Tensor) -> (Vec<f64>, Vec<f64>) {
    assert_eq!(actual.dims(), expected.dims(), "shapes differ");
    let list = |t: &Tensor| {
        let t = t.to_device(&Device::Cpu).unwrap().flatten_all().unwrap();
        t.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    };
    (list(actual), list(expected))
}

pub(crate) fn shape(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

/// Shapes by name, as `"name": [dims]`.
pub(crate) fn shapes(value: &Value) -> Vec<(String, Vec<usize>)> {
    value.as_object().unwrap().iter().map(|(name, dims)| (name.clone(), shape(dims))).collect()
}
