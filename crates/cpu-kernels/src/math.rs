//! Transcendental functions in plain arithmetic, so that compilers vectorise loops over them, and without fused
//! multiply-add, so that every instruction set gives the same bits. Also the hash that all random numbers use.

/// `eˣ`, within 2 units in the last place for results that are normal numbers; arguments beyond ±87 saturate.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial for `eʳ` (coefficients of the Cephes library) and `n` added to
/// the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let t = x * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    e * f32::from_bits((t.to_bits() << 23).wrapping_add(127 << 23))
}

/// The standard normal distribution: `(Φ(x), φ(x))`, within 3e-7.
///
/// `Φ(x) = (1 + erf(x / √2)) / 2` with Abramowitz and Stegun's approximation 7.1.26 of the error function.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let gauss = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * gauss;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, gauss * 0.398_942_3)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that maps neighbouring inputs to
/// distant numbers, so that `mix(key ^ index)` is a random number for each index.
#[inline]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> impl Iterator<Item = f32> {
        (-80_000..=80_000).map(|i| i as f32 * 1e-3)
    }

    #[test]
    fn exp_is_within_two_ulps() {
        for x in grid() {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn normal_distribution_is_within_3e_7() {
        for x in grid() {
            let (cdf, density) = normal(x);
            let x = f64::from(x);
            let exact = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            assert!((f64::from(cdf) - exact).abs() < 3e-7, "cdf({x}) = {cdf}, not {exact}");
            let exact = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            assert!((f64::from(density) - exact).abs() < 3e-7, "density({x}) = {density}, not {exact}");
        }
    }
}
