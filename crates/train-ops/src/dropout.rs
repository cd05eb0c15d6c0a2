use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use cpu_kernels::DropoutMask;

use crate::attached::attach;
use crate::{Error, ForwardContext, Result, cuda, host};

/// Inverted dropout at one place of a model: in training, an element is zeroed with probability `p` and the
/// others are scaled by `1 / (1 - p)` (Srivastava et al., 2014; as `torch.nn.Dropout`). In inference, and for
/// `p = 0`, it is the identity.
///
/// Masks are not stored. A hash of the sample's key ([`ForwardContext`]), the layer's path and the element's
/// index in the sample decides whether an element is dropped, and is computed again in the backward pass.
#[derive(Clone, Debug)]
pub struct Dropout {
    path: String,
    site: u64,
    p: f32,
}

impl Dropout {
    /// Dropout with probability `p` in `[0, 1)`, drawing from a separate stream for each `path`.
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
    pub fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let Some(mask) = self.mask(xs.dims(), ctx)? else { return Ok(xs.clone()) };
        if host::is_host_f32(xs) {
            return Ok(xs.contiguous()?.apply_op1(DropoutOp(mask))?);
        }
        if let Some(ys) = cuda::dropout(xs, &mask)? {
            return Ok(ys);
        }
        // For devices without a kernel. The mask is a constant, but a product in candle's graph would compute
        // its gradient too.
        let factors = factors(&mask, xs.shape(), xs.dtype(), xs.device())?;
        let ys = (xs.detach() * &factors)?;
        Ok(attach("dropout", xs, ys, move |grad| grad * &factors)?)
    }

    /// The mask of this pass for a tensor of shape `dims`, or `None` where nothing is dropped.
    pub(crate) fn mask(&self, dims: &[usize], ctx: &ForwardContext) -> Result<Option<DropoutMask>> {
        let Some(keys) = ctx.sample_keys().filter(|_| self.p > 0.0) else { return Ok(None) };
        let (Some(&first), Some(&features)) = (dims.first(), dims.last()) else { return Ok(None) };
        let rows = dims.iter().product::<usize>() / features.max(1);
        // The only dimension of a vector is its features, which cannot be divided among samples.
        if keys.is_empty() || first % keys.len() != 0 || rows % keys.len() != 0 {
            return Err(Error::Samples {
                path: self.path.clone(),
                shape: dims.to_vec(),
                samples: keys.len(),
            });
        }
        let rows_per_sample = rows / keys.len();
        Ok(Some(DropoutMask::at_place(host::isa()?, keys, self.site, rows_per_sample, features, self.p)))
    }
}

/// A mask as a tensor, for operations that are composed of candle's operations.
pub(crate) fn factors(
    mask: &DropoutMask,
    shape: &Shape,
    dtype: DType,
    device: &Device,
) -> candle_core::Result<Tensor> {
    match cuda::factors(mask, shape, dtype, device)? {
        Some(factors) => Ok(factors),
        None => Tensor::from_vec(mask.factors(shape.elem_count()), shape, device)?.to_dtype(dtype),
    }
}

struct DropoutOp(DropoutMask);

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
    use candle_core::Var;

    use super::*;
    use crate::sample_key;

    fn keys(samples: u64) -> Vec<u64> {
        (0..samples).map(|sample| sample_key(1, 2, sample)).collect()
    }

    #[test]
    fn drops_the_configured_share_and_keeps_the_mean() {
        let dropout = Dropout::new("a", 0.3).unwrap();
        let xs = Tensor::ones((64, 50, 40), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(&xs, &ForwardContext::training(keys(64))).unwrap();
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
            let mask = dropout.mask(&[8, 64, 64], &ForwardContext::training(keys(8))).unwrap().unwrap();
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
        let whole =
            dropout.mask(&[4, 3, 5], &ForwardContext::training(keys.clone())).unwrap().unwrap().factors(60);
        let halves: Vec<f32> = keys
            .chunks(2)
            .flat_map(|keys| {
                dropout.mask(&[2, 3, 5], &ForwardContext::training(keys)).unwrap().unwrap().factors(30)
            })
            .collect();
        assert_eq!(whole, halves);
    }

    #[test]
    fn backward_applies_the_forward_mask() {
        let dropout = Dropout::new("a", 0.4).unwrap();
        let xs = Var::ones((2, 3, 7), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(xs.as_tensor(), &ForwardContext::training(keys(2))).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let grad: Vec<f32> = grads.get(&xs).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(grad, ys.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }

    #[test]
    fn inference_is_the_identity_and_a_batch_of_another_size_is_refused() {
        let dropout = Dropout::new("a", 0.4).unwrap();
        let xs = Tensor::ones((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let ys = dropout.forward(&xs, &ForwardContext::inference()).unwrap();
        assert_eq!(ys.to_vec2::<f32>().unwrap(), xs.to_vec2::<f32>().unwrap());
        let error = dropout.forward(&xs, &ForwardContext::training(keys(3))).unwrap_err().to_string();
        assert!(error.contains("3 samples") && error.contains("[2, 3]"), "{error}");
        assert!(Dropout::new("a", 1.0).is_err());
        // The one dimension of a vector is its features: they are one sample's.
        let vector = Tensor::ones(8, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(dropout.forward(&vector, &ForwardContext::training(keys(2))).is_err());
        assert!(dropout.forward(&vector, &ForwardContext::training(keys(1))).is_ok());
    }
}
