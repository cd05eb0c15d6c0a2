use candle_core::{DType, Tensor};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng as _};
use train_ops::{FrozenLinear, LinearLayer as _};

use crate::decomposition::{low_rank_svd, qr, svd};
use crate::matching::LayerOptions;
use crate::{Error, InitLoraWeights, Result};

/// The initial `A`, `(rank, in_features)`, and `B`, `(out_features, rank)`, of the layer `base`: a pure function of the
/// arguments.
///
/// # Errors
/// [`Error::Rank`] if the initialisation decomposes the weight and the rank is larger than a dimension of it.
pub(crate) fn initial_weights(
    init: InitLoraWeights,
    seed: u64,
    base: &FrozenLinear,
    options: LayerOptions,
) -> Result<(Tensor, Tensor)> {
    let (path, sizes) = (base.path(), (options.rank, base.in_features(), base.out_features()));
    let (rank, in_features, out_features) = sizes;
    if init.changes_base() {
        let max = in_features.min(out_features);
        if rank > max {
            return Err(Error::Rank { path: path.to_owned(), rank, max });
        }
        let weight = base.weight()?.to_dtype(DType::F32)?;
        return match init {
            InitLoraWeights::Olora => {
                let (q, r) = qr(&weight)?;
                Ok((r.narrow(0, 0, rank)?.contiguous()?, q.narrow(1, 0, rank)?.contiguous()?))
            }
            InitLoraWeights::PissaNiter(iterations) => {
                let start = Stream::new(seed, path, "lora_A").normal(in_features * rank, 1.0);
                let start = Tensor::from_vec(start, (in_features, rank), base.device())?;
                principal(&low_rank_svd(&weight, &start, iterations)?, options)
            }
            _ => principal(&svd(&weight)?, options),
        };
    }
    let a_stream = Stream::new(seed, path, "lora_A");
    let a: Vec<f32> = match init {
        InitLoraWeights::Gaussian => a_stream.normal(rank * in_features, 1.0 / rank as f64),
        _ => a_stream.uniform(rank * in_features, 1.0 / (in_features as f64).sqrt()),
    };
    let b: Vec<f32> = match init {
        InitLoraWeights::Random => {
            Stream::new(seed, path, "lora_B").uniform(out_features * rank, 1.0 / (rank as f64).sqrt())
        }
        _ => vec![0.0; out_features * rank],
    };
    let a = Tensor::from_vec(a, (rank, in_features), base.device())?;
    let b = Tensor::from_vec(b, (out_features, rank), base.device())?;
    Ok((a, b))
}

/// The initial `A`, `(rank, rows)`, and `B`, `(width, rank)`, of an embedding: zero, and normal with standard deviation 1. With
/// [`InitLoraWeights::Random`] both are normal.
pub(crate) fn embedding_weights(
    init: InitLoraWeights,
    seed: u64,
    path: &str,
    weight: &Tensor,
    rank: usize,
) -> Result<(Tensor, Tensor)> {
    let (rows, width) = weight.dims2()?;
    let a = match init {
        InitLoraWeights::Random => Stream::new(seed, path, "lora_A").normal(rank * rows, 1.0),
        _ => vec![0.0; rank * rows],
    };
    let b = Stream::new(seed, path, "lora_B").normal(width * rank, 1.0);
    let device = weight.device();
    Ok((Tensor::from_vec(a, (rank, rows), device)?, Tensor::from_vec(b, (width, rank), device)?))
}

/// The initial `A`, `(rank, in_channels, height, width)`, and `B`, `(out_channels, rank / groups, 1, 1)`, of a
/// convolution, drawn as for a linear layer whose inputs are the elements of a window.
pub(crate) fn convolution_weights(
    init: InitLoraWeights,
    seed: u64,
    path: &str,
    weight: &Tensor,
    groups: usize,
    rank: usize,
) -> Result<(Tensor, Tensor)> {
    let (out_channels, in_group, height, width) = weight.dims4()?;
    let (window, in_b) = (in_group * groups * height * width, rank / groups);
    let a_stream = Stream::new(seed, path, "lora_A");
    let a = match init {
        InitLoraWeights::Gaussian => a_stream.normal(rank * window, 1.0 / rank as f64),
        _ => a_stream.uniform(rank * window, 1.0 / (window as f64).sqrt()),
    };
    let b = match init {
        InitLoraWeights::Random => {
            Stream::new(seed, path, "lora_B").uniform(out_channels * in_b, 1.0 / (in_b as f64).sqrt())
        }
        _ => vec![0.0; out_channels * in_b],
    };
    let a = Tensor::from_vec(a, (rank, in_group * groups, height, width), weight.device())?;
    Ok((a, Tensor::from_vec(b, (out_channels, in_b, 1, 1), weight.device())?))
}

/// `A = (S / s)^½ Vᵀ` and `B = U (S / s)^½` for the largest singular values, so that `s B A` is the part of the
/// weight that belongs to them.
fn principal((u, values, v_t): &(Tensor, Tensor, Tensor), options: LayerOptions) -> Result<(Tensor, Tensor)> {
    let root = (values.narrow(0, 0, options.rank)? / options.scale)?.sqrt()?;
    let a = v_t.narrow(0, 0, options.rank)?.broadcast_mul(&root.unsqueeze(1)?)?;
    Ok((a, u.narrow(1, 0, options.rank)?.broadcast_mul(&root)?))
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
