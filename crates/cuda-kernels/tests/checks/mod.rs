//! The checks of all kernels: each compares a kernel with a reference in f64, over sizes that are not multiples of anything and
//! several orders of threads. `kernels.rs` runs them on the kernels, `mutants/` on kernels with planted faults.

// The two programs use different ones.
#![allow(dead_code)]

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod candidates;
pub(crate) mod cross_entropy;
pub(crate) mod decoding;
pub(crate) mod dropout;
pub(crate) mod int8;
pub(crate) mod lora;
pub(crate) mod memory;
pub(crate) mod optimizer;
pub(crate) mod residual_norm;
pub(crate) mod row_add;
pub(crate) mod row_copy;
pub(crate) mod tensor_copy;

use cpu_kernels::{DropoutMask, Isa, mix};
use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Launch, Mask};
use half::bf16;

pub(crate) use crate::reference::{exact, product, transposed};
use memory::Memory;

/// The fault, if there is one.
pub(crate) type Outcome = Result<(), String>;

/// A check of some kernels.
pub(crate) type Check = fn(&Emulator) -> Outcome;

pub(crate) const ELEMENTS: [Element; 2] = [Element::F32, Element::Bf16];

/// Orders of threads: their own, the opposite, and one in which warps pass each other at random.
pub(crate) const SEEDS: [u32; 3] = [0, 1, 2];

/// Fixed values in [-1, 1) without structure, rounded to the type of activations.
pub(crate) fn uniform(element: Element, seed: u64, count: usize) -> Vec<f32> {
    let values = (0..count as u64).map(|i| (mix(mix(seed) ^ i) >> 40) as f32 / (1 << 23) as f32 - 1.0);
    values.map(|value| rounded(element, value)).collect()
}

pub(crate) fn rounded(element: Element, value: f32) -> f32 {
    match element {
        Element::F32 => value,
        Element::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// Runs launches one after the other.
pub(crate) fn run(emulator: &Emulator, launches: &[Launch], seed: u32) -> Outcome {
    for launch in launches {
        // SAFETY: the checks give each launch the memory that it is documented to need.
        #[allow(unsafe_code)]
        unsafe { emulator.run(launch, seed) }.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A mask of the emulation, its keys in memory, and the same mask of cpu-kernels.
pub(crate) struct TestMask {
    keys: Memory,
    pub(crate) mask: Mask,
    cpu: Option<DropoutMask>,
}

impl TestMask {
    /// For `rows` rows of `columns` elements. With 0 samples nothing is dropped.
    pub(crate) fn new(samples: usize, rows: usize, columns: usize, p: f32) -> Self {
        let keys: Vec<u64> = (0..samples as u64).map(|sample| mix(sample ^ 0x1234)).collect();
        let memory = Memory::of_u64(&keys);
        if samples == 0 {
            return Self { keys: memory, mask: Mask::NONE, cpu: None };
        }
        let rows_per_sample = rows / samples;
        assert_eq!(rows_per_sample * samples, rows, "rows of samples");
        let mask = Mask { keys: memory.pointer(), rows_per_sample: rows_per_sample as u32, p };
        let isa = Isa::active().expect("an instruction set");
        Self { keys: memory, mask, cpu: Some(DropoutMask::new(isa, keys, rows_per_sample, columns, p)) }
    }

    /// The factors of the elements of a row.
    pub(crate) fn row(&self, row: usize, columns: usize) -> Vec<f32> {
        let mut factors = vec![1.0; columns];
        if let Some(mask) = &self.cpu {
            mask.apply_part(row, 0, &mut factors);
        }
        factors
    }

    pub(crate) fn factors(&self, rows: usize, columns: usize) -> Vec<f32> {
        (0..rows).flat_map(|row| self.row(row, columns)).collect()
    }
}

/// Whether results agree with the exact ones: in all elements within `tolerance` of the largest. NaN never agrees.
pub(crate) fn agrees(name: &str, got: &[f32], exact: &[f64], tolerance: f64) -> Outcome {
    agrees_within(
        name,
        got,
        exact,
        tolerance * exact.iter().fold(0f64, |largest, value| largest.max(value.abs())),
    )
}

/// Whether results are within `bound` of the exact ones. NaN never is.
pub(crate) fn agrees_within(name: &str, got: &[f32], exact: &[f64], bound: f64) -> Outcome {
    if got.len() != exact.len() {
        return Err(format!("{name}: {} values, not {}", got.len(), exact.len()));
    }
    for (i, (got, exact)) in got.iter().zip(exact).enumerate() {
        let off = (f64::from(*got) - exact).abs();
        if off.is_nan() || off > bound {
            return Err(format!("{name}[{i}]: {got}, not {exact}, off by {off:.1e} and not {bound:.1e}"));
        }
    }
    Ok(())
}

/// Whether results are equal to the last bit.
pub(crate) fn same(name: &str, got: &[f32], expected: &[f32]) -> Outcome {
    if got.len() != expected.len() {
        return Err(format!("{name}: {} values, not {}", got.len(), expected.len()));
    }
    match (0..got.len()).find(|i| got[*i].to_bits() != expected[*i].to_bits()) {
        Some(i) => Err(format!("{name}[{i}]: {}, not {}", got[i], expected[i])),
        None => Ok(()),
    }
}

/// Runs `results` for all orders of threads, which must give equal bits, and returns those of the first.
pub(crate) fn in_all_orders(
    mut results: impl FnMut(u32) -> Result<Vec<Vec<f32>>, String>,
) -> Result<Vec<Vec<f32>>, String> {
    let first = results(SEEDS[0])?;
    for seed in &SEEDS[1..] {
        for (i, (got, expected)) in results(*seed)?.iter().zip(&first).enumerate() {
            same(&format!("result {i} in order {seed}"), got, expected)?;
        }
    }
    Ok(first)
}

/// The tolerance for results of these types, in units of the largest value.
pub(crate) fn tolerance(element: Element, f32: f64, bf16: f64) -> f64 {
    match element {
        Element::F32 => f32,
        Element::Bf16 => bf16,
    }
}

/// Converts the errors of this crate.
pub(crate) fn ok<T>(result: cuda_kernels::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}
