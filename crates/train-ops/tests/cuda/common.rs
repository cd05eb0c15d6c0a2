//! Values, and the comparison of the GPU with the CPU.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};
use train_ops::{ForwardContext, cuda_device, sample_key};

pub(crate) fn gpu() -> &'static Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| cuda_device(0).unwrap())
}

/// Fixed values in (-1, 1) without structure, that are the same in bf16.
pub(crate) fn values(seed: u64, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u64;
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values = Tensor::from_vec((0..count).map(value).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap();
    values.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
}

/// A constant for an operation on tensors like `like`.
pub(crate) fn constant(seed: u64, shape: &[usize], like: &Tensor) -> Tensor {
    values(seed, shape).to_dtype(like.dtype()).unwrap().to_device(like.device()).unwrap()
}

pub(crate) fn training() -> ForwardContext {
    ForwardContext::training([sample_key(1, 2, 0), sample_key(1, 2, 1)])
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Needs a gradient.
    Activation,
    /// A constant of the activations' type.
    Frozen,
    /// Trained, f32 whatever the activations are.
    Parameter,
}
pub(crate) use Kind::{Activation as Trained, Frozen, Parameter};

pub(crate) type Input<'a> = (Kind, u64, &'a [usize]);

pub(crate) fn list(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The result, and the gradients of what is trained, for a gradient of the result without structure. There must be no others.
pub(crate) fn run(
    name: &str,
    inputs: &[Input<'_>],
    dtype: DType,
    device: &Device,
    f: &impl Fn(&[Tensor]) -> Tensor,
) -> Vec<Vec<f64>> {
    let arguments: Vec<Tensor> = inputs
        .iter()
        .map(|(kind, seed, shape)| {
            let dtype = if *kind == Parameter { DType::F32 } else { dtype };
            let tensor = values(*seed, shape).to_dtype(dtype).unwrap().to_device(device).unwrap();
            if *kind == Frozen { tensor } else { Var::from_tensor(&tensor).unwrap().as_tensor().clone() }
        })
        .collect();
    let ys = f(&arguments);
    let dys = constant(99, ys.dims(), &ys);
    let gradients = (&ys * dys).unwrap().sum_all().unwrap().backward().unwrap();
    let mut found = vec![list(&ys)];
    for ((kind, ..), argument) in inputs.iter().zip(&arguments) {
        match gradients.get(argument) {
            Some(gradient) if *kind != Frozen => {
                assert_eq!(gradient.dtype(), argument.dtype(), "{name}");
                found.push(list(gradient));
            }
            None if *kind == Frozen => {}
            _ => panic!("{name}: a gradient is missing, or one of a frozen tensor is there"),
        }
    }
    found
}

/// The largest errors of one operation in f32 and in bf16, as shares of a tensor's norm.
pub(crate) const ONE: [f64; 2] = [1e-6, 1e-2];
/// Those of a layer: about 20 operations, and the CPU's approximation of the normal distribution.
pub(crate) const LAYER: [f64; 2] = [5e-5, 5e-2];

/// Compares the GPU in f32 and in bf16 with the CPU in f32.
pub(crate) fn check(name: &str, inputs: &[Input<'_>], bounds: [f64; 2], f: impl Fn(&[Tensor]) -> Tensor) {
    let expected = run(name, inputs, DType::F32, &Device::Cpu, &f);
    for (dtype, bound) in [DType::F32, DType::BF16].into_iter().zip(bounds) {
        let found = run(name, inputs, dtype, gpu(), &f);
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "{name}, {dtype:?}, tensor {index}");
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
            let error = difference / norm(&mut expected.iter().copied());
            assert!(error < bound, "{name}, {dtype:?}, tensor {index}: error {error:e}");
        }
    }
}
