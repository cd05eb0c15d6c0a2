use std::time::Instant;

use rayon::prelude::*;

use crate::isa::Kind;
use crate::simd::{Portable, Simd};
use crate::{Isa, Precision, Result};

/// Number of independent sums, enough to hide the latency of a multiply-add.
const SUMS: usize = 12;
/// Rounds of a measurement.
const ROUNDS: usize = 2_000_000;

/// The floating-point operations a second that all threads of the pool reach with multiply-adds in registers,
/// in the best of `repeats` runs. This is the upper bound of any product with an f32 matrix, or with a bf16
/// one.
///
/// For bf16 the instruction is the one that such products use: that for bf16 if it is active, else that for
/// f32. Intel's AMX is not included: products by AMX may exceed this number.
///
/// # Errors
/// As [`Isa::active`].
pub fn peak_flops(bf16: bool, repeats: usize) -> Result<f64> {
    let isa = Isa::active()?;
    let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
    let threads = rayon::current_num_threads();
    let lanes = isa.panel_width() / 2;
    // Multiply-adds in a lane of the sums.
    let per_lane = match isa.kind() {
        Kind::Neon { bf16: true } if bf16 => 4,
        Kind::Avx512 { bf16: true, .. } if bf16 => 2,
        _ => 1,
    };
    let operations = (2 * per_lane * lanes * SUMS * ROUNDS * threads) as f64;
    let seconds = (0..repeats).map(|_| {
        let start = Instant::now();
        let sums: f32 = (0..threads).into_par_iter().map(|_| run(isa, precision)).sum();
        std::hint::black_box(sums);
        start.elapsed().as_secs_f64()
    });
    Ok(operations / seconds.fold(f64::INFINITY, f64::min))
}

fn run(isa: Isa, precision: Precision) -> f32 {
    // SAFETY: an `Isa` is one that the processor has.
    #[allow(unsafe_code)]
    unsafe {
        match (isa.kind(), precision) {
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512 { bf16: true, .. }, Precision::Bf16) => avx512_bf16(),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512 { .. }, _) => avx512(),
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2 { .. }, _) => avx2(),
            #[cfg(target_arch = "aarch64")]
            (Kind::Neon { bf16: true }, Precision::Bf16) => neon_bf16(),
            #[cfg(target_arch = "aarch64")]
            (Kind::Neon { .. }, _) => neon(),
            _ => rounds::<Portable>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[allow(unsafe_code)]
unsafe fn avx512_bf16() -> f32 {
    // SAFETY: the caller's.
    unsafe { rounds::<crate::simd::Avx512Bf16>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(unsafe_code)]
unsafe fn avx512() -> f32 {
    // SAFETY: the caller's.
    unsafe { rounds::<crate::simd::Avx512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn avx2() -> f32 {
    // SAFETY: the caller's.
    unsafe { rounds::<crate::simd::Avx2>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,bf16")]
#[allow(unsafe_code)]
unsafe fn neon_bf16() -> f32 {
    // SAFETY: the caller's.
    unsafe { rounds::<crate::simd::NeonBf16>() }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[allow(unsafe_code)]
unsafe fn neon() -> f32 {
    // SAFETY: the caller's.
    unsafe { rounds::<crate::simd::Neon>() }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn rounds<S: Simd>() -> f32 {
    // Small factors in either format, hidden from the optimiser.
    let factors = std::hint::black_box([0x3c00_3c00u32; 32]);
    let mut result = [0u32; 32];
    // SAFETY: both arrays hold 32 words, which is two of the longest vectors; the caller has the instruction set.
    unsafe {
        let (a, b) = (S::load(factors.as_ptr()), S::load(factors.as_ptr().add(S::LANES)));
        let mut sums = [b; SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = S::most_multiply_adds(a, b, *sum);
            }
        }
        for sum in sums {
            S::store(result.as_mut_ptr(), sum);
            std::hint::black_box(&result);
        }
    }
    f32::from_bits(result[0])
}
