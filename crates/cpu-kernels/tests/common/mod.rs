//! Helpers of the tests.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::io::Write;
use std::sync::Once;

use cpu_kernels::{Isa, mix};

/// The instruction sets that the processor has. Says once, on the terminal, which these are: a test run covers no others.
pub(crate) fn instruction_sets() -> Vec<Isa> {
    static REPORT: Once = Once::new();
    let sets = Isa::supported();
    REPORT.call_once(|| {
        let names: Vec<&str> = sets.iter().map(|isa| isa.name()).collect();
        // Not `println!`, whose output the test harness captures.
        let _ = writeln!(std::io::stderr(), "instruction sets covered: {}", names.join(", "));
    });
    sets
}

/// Fixed values in (-1, 1) without structure.
pub(crate) fn values(seed: u64, count: usize) -> Vec<f32> {
    let key = mix(mix(seed));
    (0..count as u64).map(|i| (mix(key ^ i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}
