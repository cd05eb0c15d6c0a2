//! The optimizer and the norms of gradients on an NVIDIA GPU, or on what stands in for one (`.ci/cuda-stand-in`), against the CPU.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use trainer_core::{AdamW, Gradients, Optimizer, Parameters, TrainingArguments};

/// Sizes that are no multiples of anything, one of more than a block's elements.
const SIZES: [usize; 4] = [1, 7, 130, 9001];

fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&Device::Cpu).unwrap().to_vec1().unwrap()
}

/// Three steps: the norms of the first step's gradients, and the parameters and moments at the end.
fn run(device: &Device) -> (Vec<f64>, Vec<Vec<f32>>) {
    let tensor = |seed, count| Tensor::new(values(seed, count), device).unwrap();
    let variables: Vec<(String, Var)> = SIZES
        .iter()
        .map(|&count| (format!("p{count}"), Var::from_tensor(&tensor(1, count)).unwrap()))
        .collect();
    let parameters = Parameters::new(variables.clone()).unwrap();
    let arguments = TrainingArguments { weight_decay: 0.01, ..TrainingArguments::default() };
    let mut optimizer = AdamW::new(&arguments, &parameters).unwrap();
    let mut norms = Vec::new();
    for step in 0..3 {
        let gradients = SIZES.iter().map(|&count| (format!("p{count}"), tensor(2 + step, count)));
        let mut gradients = Gradients::from_iter(gradients);
        gradients.scale(0.3).unwrap();
        norms.extend(gradients.norms().unwrap().iter().map(|(_, norm)| norm));
        // This clips: the norm is far above 1.
        gradients.clip(gradients.norms().unwrap().global(), 1.0).unwrap();
        optimizer.step(&parameters, &gradients, 1e-2).unwrap();
    }
    let moments = optimizer.state().unwrap().into_iter().filter(|(name, _)| !name.ends_with("step"));
    let moments = moments.map(|(_, tensor)| list(&tensor));
    let parameters = variables.iter().map(|(_, variable)| list(variable.as_tensor()));
    (norms, parameters.chain(moments).collect())
}

#[test]
fn steps_of_adamw_have_the_bits_of_the_cpu_and_norms_its_digits() {
    let (expected_norms, expected) = run(&Device::Cpu);
    let (norms, found) = run(&Device::new_cuda(0).unwrap());
    for (norm, expected) in norms.iter().zip(&expected_norms) {
        assert!((norm - expected).abs() <= 1e-6 * expected, "{norm}, {expected}");
    }
    assert_eq!(found.len(), expected.len());
    let exact = cfg!(feature = "fused-cuda");
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        let bound = if exact { 0.0 } else { 1e-6 * expected.abs().max(1.0) };
        assert!((found - expected).abs() <= bound, "{found}, {expected}");
    }
}
