//! Helpers of several tests.

pub(crate) mod adapted;

use candle_core::{Device, Shape, Tensor, Var};
use train_ops::{Dropout, FrozenLinear, sample_key};

use adapted::Adapted;

/// Fixed values in (-1, 1) without structure.
pub(crate) fn values(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    Tensor::from_vec((0..shape.elem_count() as u64).map(value).collect::<Vec<_>>(), shape, &Device::Cpu)
        .unwrap()
}

pub(crate) fn var(tensor: &Tensor) -> Tensor {
    Var::from_tensor(tensor).unwrap().into_inner()
}

/// A layer `known` to have an adapter, or not.
pub(crate) fn adapted(seed: u64, n_in: usize, n_out: usize, known: bool) -> Adapted {
    let path = format!("layer{seed}");
    let scale = 1.0 / (n_in as f64).sqrt();
    let weight = (values(seed, (n_out, n_in)) * scale).unwrap();
    Adapted {
        base: FrozenLinear::new(&path, weight, Some(values(seed + 100, n_out))).unwrap(),
        a: var(&(values(seed + 200, (2, n_in)) * scale).unwrap()),
        b: var(&values(seed + 300, (n_out, 2))),
        scale: 0.7,
        dropout: Dropout::new(&path, 0.2).unwrap(),
        known,
    }
}
