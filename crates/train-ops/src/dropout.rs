use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::pass::mix;
use crate::{Error, Pass, Result, host};

/// Inverted dropout at one place of a model: in training, an element is zeroed with probability `p` and the others are
/// scaled by `1 / (1 - p)` (Srivastava et al., 2014; as `torch.nn.Dropout`). In inference, and for `p` 0, the identity.
///
/// Masks are not stored: an element's fate is a hash of the sample's key ([`Pass`]), the layer's path, and the
/// element's place in the sample, computed again in the backward pass.
#[derive(Clone, Debug)]
pub struct Dropout {
    path: String,
    site: u64,
    p: f32,
}

impl Dropout {
    /// Dropout with probability `p` in `[0, 1)`, drawing from a stream of its own for each `path`.
    pub fn new(path: &str, p: f32) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Probability { path: path.to_owned(), got: p });
        }
        // FNV-1a, so that the stream depends on the name alone and not on a compiler's hasher.
        let site = path
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Ok(Self { path: path.to_owned(), site, p })
    }

    /// The probability that an element is dropped.
    pub fn p(&self) -> f32 {
        self.p
    }

    /// Applies dropout to `xs` of shape `(samples * n, ..., features)`: the first dimension is divided evenly among
    /// the samples of the pass.
    pub fn forward(&self, xs: &Tensor, pass: &Pass) -> Result<Tensor> {
        let Some(mask) = self.mask(xs.dims(), pass)? else { return Ok(xs.clone()) };
        if host::is_host_f32(xs) {
            return Ok(xs.contiguous()?.apply_op1(DropoutOp(mask))?);
        }
        let factors = Tensor::from_vec(mask.factors(xs.elem_count()), xs.shape(), xs.device())?;
        Ok((xs * factors.to_dtype(xs.dtype())?)?)
    }

    /// The mask of this pass for a tensor of shape `dims`, or `None` where nothing is dropped.
    pub(crate) fn mask(&self, dims: &[usize], pass: &Pass) -> Result<Option<Mask>> {
        let Some(keys) = pass.sample_keys().filter(|_| self.p > 0.0) else { return Ok(None) };
        let (Some(&first), Some(&features)) = (dims.first(), dims.last()) else { return Ok(None) };
        let rows = dims.iter().product::<usize>() / features.max(1);
        // Of a vector, whose one dimension is its features, there is nothing to divide.
        if keys.is_empty() || first % keys.len() != 0 || rows % keys.len() != 0 {
            return Err(Error::Samples {
                path: self.path.clone(),
                shape: dims.to_vec(),
                samples: keys.len(),
            });
        }
        Ok(Some(Mask {
            streams: keys.iter().map(|key| mix(key ^ self.site)).collect(),
            rows_per_sample: rows / keys.len(),
            features,
            threshold: (f64::from(self.p) * 2f64.powi(32)) as u32,
            scale: 1.0 / (1.0 - self.p),
        }))
    }
}

/// The dropout mask of one tensor in one pass: a function from element to 0 or `1 / (1 - p)`.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    /// One stream for each sample.
    streams: Vec<u64>,
    rows_per_sample: usize,
    features: usize,
    threshold: u32,
    scale: f32,
}

impl Mask {
    /// Multiplies `values`, rows of `features`, by the mask.
    pub(crate) fn apply(&self, values: &mut [f32]) {
        let features = self.features.max(1);
        values.par_chunks_mut(features).enumerate().for_each(|(row, values)| self.apply_part(row, 0, values));
    }

    /// Multiplies part of a row, counted over all samples, by the mask; `values` begin at column `first`. The row's number
    /// in its sample, not its length, decides which mask that is, so that a longer row begins like a shorter one.
    pub(crate) fn apply_part(&self, row: usize, first: usize, values: &mut [f32]) {
        apply_key(self.key(row), first as u32, self.threshold, self.scale, values);
    }

    /// Which elements are kept, for as many rows as there are. For a pass that uses the mask more than once.
    pub(crate) fn kept(&self, rows: usize) -> KeptBits {
        let per_row = self.features.next_multiple_of(PADDED) / BITS;
        let mut bits = vec![0; rows * per_row];
        bits.par_chunks_mut(KEPT_ROWS * per_row.max(1)).enumerate().for_each(|(chunk, bits)| {
            for (index, bits) in bits.chunks_exact_mut(per_row).enumerate() {
                kept_of_key(self.key(chunk * KEPT_ROWS + index), self.threshold, bits);
            }
        });
        KeptBits { bits, per_row }
    }

    /// What an element that is kept is multiplied by.
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// The key of a row, counted over all samples.
    fn key(&self, row: usize) -> u64 {
        mix(self.streams[row / self.rows_per_sample] ^ (row % self.rows_per_sample) as u64)
    }

    /// The mask as factors, for devices that take it as a tensor.
    pub(crate) fn factors(&self, count: usize) -> Vec<f32> {
        let mut factors = vec![1.0; count];
        self.apply(&mut factors);
        factors
    }
}

/// Which elements of rows a mask keeps, a bit for each.
pub(crate) struct KeptBits {
    bits: Vec<u8>,
    per_row: usize,
}

/// Elements whose bits make a byte.
const BITS: usize = 8;
/// Columns whose bits are there in every row, of which it may have fewer: those of the widest panel of a product.
const PADDED: usize = 32;
/// Rows whose bits a task makes.
const KEPT_ROWS: usize = 16;

impl KeptBits {
    /// Whether there are bits for so many rows of so many columns.
    pub(crate) fn covers(&self, rows: usize, columns: usize) -> bool {
        self.per_row * BITS >= columns && self.bits.len() >= rows * self.per_row
    }

    /// The bits of a row and all that follow, from a column on that is a multiple of 8, and the bytes from row to row. The
    /// first column is in the lowest bit.
    pub(crate) fn from(&self, row: usize, first: usize) -> (&[u8], usize) {
        (&self.bits[row * self.per_row + first / BITS..], self.per_row)
    }
}

/// Multiplies the columns of a row, from `first` on, by its mask.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn apply_key(key: u64, first: u32, threshold: u32, scale: f32, values: &mut [f32]) {
    let (low, high) = (key as u32, (key >> 32) as u32);
    for (column, value) in (first..).zip(values) {
        *value *= if hash(low, high, column) < threshold { 0.0 } else { scale };
    }
}

/// The bits of the columns of a row that its mask keeps.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn kept_of_key(key: u64, threshold: u32, bits: &mut [u8]) {
    let (low, high) = (key as u32, (key >> 32) as u32);
    for (byte, bits) in (0..).zip(bits) {
        let mut kept = 0u32;
        for bit in 0..BITS as u32 {
            let dropped = hash(low, high, BITS as u32 * byte + bit) < threshold;
            kept |= if dropped { 0 } else { 1 << bit };
        }
        *bits = kept as u8;
    }
}

/// 32 random bits for a column of a row. Two multiply and xor-shift rounds in 32 bits, which compilers vectorise; the
/// second half of the key enters between them, so that no two rows are shifted copies of one another.
#[inline(always)]
fn hash(low: u32, high: u32, column: u32) -> u32 {
    let mut h = column.wrapping_mul(0x9e37_79b1).wrapping_add(low);
    h = (h ^ (h >> 16)).wrapping_mul(0x21f0_aaad) ^ high;
    h = (h ^ (h >> 15)).wrapping_mul(0x735a_2d97);
    h ^ (h >> 15)
}

struct DropoutOp(Mask);

impl CustomOp1 for DropoutOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut ys = host::slice(storage, layout)?.to_vec();
        self.0.apply(&mut ys);
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, _xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let mut grad_xs = host::values(&grad.storage_and_layout())?.to_vec();
        self.0.apply(&mut grad_xs);
        Tensor::from_vec(grad_xs, grad.shape(), grad.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::sample_key;

    fn keys(samples: u64) -> Vec<u64> {
        (0..samples).map(|sample| sample_key(1, 2, sample)).collect()
    }

    #[test]
    fn drops_the_configured_share_and_keeps_the_mean() {
        let dropout = Dropout::new("a", 0.3).unwrap();
        let xs = Tensor::ones((64, 50, 40), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(&xs, &Pass::training(keys(64))).unwrap();
        let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        let n = ys.len() as f64;
        let dropped = ys.iter().filter(|y| **y == 0.0).count() as f64 / n;
        let sigma = (0.3f64 * 0.7 / n).sqrt();
        assert!((dropped - 0.3).abs() < 5.0 * sigma, "{dropped}");
        assert!(ys.iter().all(|y| *y == 0.0 || (*y - 1.0 / 0.7).abs() < 1e-6));
    }

    #[test]
    fn neighbouring_elements_rows_samples_and_sites_are_uncorrelated() {
        let keep = |path: &str| {
            let dropout = Dropout::new(path, 0.5).unwrap();
            let mask = dropout.mask(&[8, 64, 64], &Pass::training(keys(8))).unwrap().unwrap();
            mask.factors(8 * 64 * 64).into_iter().map(|f| f - 1.0).collect::<Vec<f32>>()
        };
        let (a, b) = (keep("a"), keep("b"));
        let n = a.len() as f32;
        let correlation =
            |xs: &[f32], ys: &[f32]| xs.iter().zip(ys).map(|(x, y)| x * y).sum::<f32>() / n.sqrt();
        for (name, sigmas) in [
            ("columns", correlation(&a, &a[1..])),
            ("rows", correlation(&a, &a[64..])),
            ("samples", correlation(&a, &a[64 * 64..])),
            ("sites", correlation(&a, &b)),
        ] {
            assert!(sigmas.abs() < 4.5, "{name}: {sigmas}");
        }
    }

    #[test]
    fn masks_do_not_depend_on_the_grouping_of_samples_into_batches() {
        let dropout = Dropout::new("a", 0.5).unwrap();
        let keys = keys(4);
        let whole = dropout.mask(&[4, 3, 5], &Pass::training(keys.clone())).unwrap().unwrap().factors(60);
        let halves: Vec<f32> = keys
            .chunks(2)
            .flat_map(|keys| dropout.mask(&[2, 3, 5], &Pass::training(keys)).unwrap().unwrap().factors(30))
            .collect();
        assert_eq!(whole, halves);
    }

    #[test]
    fn backward_applies_the_forward_mask() {
        let dropout = Dropout::new("a", 0.4).unwrap();
        let xs = Var::ones((2, 3, 7), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(xs.as_tensor(), &Pass::training(keys(2))).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let grad: Vec<f32> = grads.get(&xs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(grad, ys.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }

    #[test]
    fn inference_is_the_identity_and_a_batch_of_another_size_is_refused() {
        let dropout = Dropout::new("a", 0.4).unwrap();
        let xs = Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(&xs, &Pass::inference()).unwrap();
        assert_eq!(ys.to_vec2::<f32>().unwrap(), xs.to_vec2::<f32>().unwrap());
        let error = dropout.forward(&xs, &Pass::training(keys(3))).unwrap_err().to_string();
        assert!(error.contains("3 samples") && error.contains("[2, 3]"), "{error}");
        assert!(Dropout::new("a", 1.0).is_err());
        // The one dimension of a vector is its features: they are one sample's.
        let vector = Tensor::ones(8, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(dropout.forward(&vector, &Pass::training(keys(2))).is_err());
        assert!(dropout.forward(&vector, &Pass::training(keys(1))).is_ok());
    }
}
