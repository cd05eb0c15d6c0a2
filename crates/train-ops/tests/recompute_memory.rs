//! The memory that recomputing saves. Alone in its process, so that the memory measured is its own.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "measurements are for people")]

use candle_core::{Device, Tensor, Var};
use train_ops::recompute;

/// Memory in use, in bytes, where the system says.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Three blocks of three operations on 36 MiB, more than an allocator keeps when it is freed; their graph is alive when
/// memory is measured.
#[test]
fn recomputed_segments_keep_their_results_alone() {
    let Some(_) = resident_bytes() else { return };
    let grown = |recomputed: bool| {
        let weights: Vec<Var> =
            (0..3).map(|_| Var::randn(0f32, 0.1, (64, 64), &Device::Cpu).unwrap()).collect();
        let mut xs = Tensor::ones((147_456, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        let before = resident_bytes().unwrap();
        for weight in &weights {
            let captured = weight.clone();
            let block = move |xs: &Tensor| xs.matmul(&captured)?.tanh()?.affine(0.9, 0.1);
            xs = if recomputed {
                recompute(std::slice::from_ref(weight.as_tensor()), &xs, block).unwrap()
            } else {
                block(&xs).unwrap()
            };
        }
        let grown = resident_bytes().unwrap() - before;
        let gradients = xs.sum_all().unwrap().backward().unwrap();
        assert!(weights.iter().all(|weight| gradients.get(weight).is_some()));
        grown as f64 / f64::from(1 << 20)
    };
    grown(false); // Threads and buffers of the multiplication are there from now on.
    let (plain, recomputed) = (grown(false), grown(true));
    eprintln!("{plain:.0} MiB, recomputed {recomputed:.0} MiB");
    assert!(recomputed < 0.5 * plain, "{plain} MiB, recomputed {recomputed} MiB");
}
