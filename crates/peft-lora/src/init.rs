use candle_core::{Device, Result, Tensor};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};

use crate::InitLoraWeights;

/// The initial `A`, `(rank, in_features)`, and `B`, `(out_features, rank)`, of the layer at `path`: a pure
/// function of the arguments.
pub(crate) fn initial_weights(
    init: InitLoraWeights,
    seed: u64,
    path: &str,
    (rank, in_features, out_features): (usize, usize, usize),
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let a_stream = Stream::new(seed, path, "lora_A");
    let a: Vec<f32> = match init {
        InitLoraWeights::Default | InitLoraWeights::Random => {
            a_stream.uniform(rank * in_features, 1.0 / (in_features as f64).sqrt())
        }
        InitLoraWeights::Gaussian => a_stream.normal(rank * in_features, 1.0 / rank as f64),
    };
    let b: Vec<f32> = match init {
        InitLoraWeights::Default | InitLoraWeights::Gaussian => vec![0.0; out_features * rank],
        InitLoraWeights::Random => {
            Stream::new(seed, path, "lora_B").uniform(out_features * rank, 1.0 / (rank as f64).sqrt())
        }
    };
    let a = Tensor::from_vec(a, (rank, in_features), device)?;
    let b = Tensor::from_vec(b, (out_features, rank), device)?;
    Ok((a, b))
}

/// Random numbers for one tensor. The number at an index depends only on the key and the index.
struct Stream {
    key: u64,
}

impl Stream {
    fn new(seed: u64, path: &str, name: &str) -> Self {
        let bytes = path.bytes().chain([b'.']).chain(name.bytes());
        Self { key: bytes.fold(mix(seed), |key, byte| mix(key ^ u64::from(byte))) }
    }

    /// Uniform in `(-bound, bound)`.
    fn uniform(&self, count: usize, bound: f64) -> Vec<f32> {
        (0..count as u64).map(|index| ((2.0 * self.unit(index) - 1.0) * bound) as f32).collect()
    }

    /// Normal, by the Box-Muller transform (1958).
    fn normal(&self, count: usize, std: f64) -> Vec<f32> {
        (0..count as u64)
            .map(|index| {
                let radius = (-2.0 * self.unit(2 * index).ln()).sqrt();
                let angle = std::f64::consts::TAU * self.unit(2 * index + 1);
                (radius * angle.cos() * std) as f32
            })
            .collect()
    }

    /// Uniform in `(0, 1)`.
    fn unit(&self, index: u64) -> f64 {
        ((mix(self.key ^ mix(index)) >> 11) as f64 + 0.5) / 2f64.powi(53)
    }
}

/// The first number of the SplitMix64 generator (Steele, Lea and Flood, 2014) with this seed.
fn mix(seed: u64) -> u64 {
    SplitMix64::seed_from_u64(seed).next_u64()
}
