use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use crate::math::{normal, sigmoid};
use crate::{Result, host};

/// An elementwise non-linearity, named as in `hidden_act` of a Hugging Face configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: `x Φ(x)` with the exact normal distribution (Hendrycks and Gimpel, 2016).
    Gelu,
    /// `quick_gelu`: `x σ(1.702 x)`, as CLIP uses it.
    QuickGelu,
}

impl Activation {
    /// The activation that a configuration calls `name`, if it is one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            _ => None,
        }
    }

    /// Applies the activation to every element; differentiable.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ys = train_ops::Activation::Gelu.forward(&Tensor::new(&[-1f32, 0., 1.], &Device::Cpu)?)?;
    /// assert!((ys.to_vec1::<f32>()?[2] - 0.841345).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward(self, xs: &Tensor) -> Result<Tensor> {
        if host::is_host_f32(xs) {
            return Ok(xs.contiguous()?.apply_op1(ActivationOp(self))?);
        }
        Ok(match self {
            Self::Gelu => xs.gelu_erf()?,
            Self::QuickGelu => {
                // σ(u) = (1 + tanh(u / 2)) / 2, of differentiable operations.
                let sigmoid = (((xs * (1.702 / 2.0))?.tanh()? + 1.0)? * 0.5)?;
                (xs * sigmoid)?
            }
        })
    }
}

impl Activation {
    /// Applies it to values in host memory, on one thread.
    pub(crate) fn apply(self, xs: &[f32], ys: &mut [f32]) {
        match self {
            Self::Gelu => gelu(xs, ys),
            Self::QuickGelu => quick_gelu(xs, ys),
        }
    }

    /// The gradient of values `xs`, `dys` times the derivative, to `dxs`, on one thread.
    pub(crate) fn gradient(self, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        match self {
            Self::Gelu => gelu_gradient(xs, dys, dxs),
            Self::QuickGelu => quick_gelu_gradient(xs, dys, dxs),
        }
    }
}

/// Values a task works on: large enough to pay for the hand-over, small enough to stay in the cache.
const CHUNK: usize = 16 * 1024;

struct ActivationOp(Activation);

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(storage, layout)?;
        let mut ys = vec![0.0; xs.len()];
        ys.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).for_each(|(ys, xs)| self.0.apply(xs, ys));
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let (dys, x) = (host::values(&grad_view)?, host::values(&xs_view)?);
        let mut dxs = vec![0.0; x.len()];
        (dxs.par_chunks_mut(CHUNK), x.par_chunks(CHUNK), dys.par_chunks(CHUNK))
            .into_par_iter()
            .for_each(|(dxs, xs, dys)| self.0.gradient(xs, dys, dxs));
        Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn gelu(xs: &[f32], ys: &mut [f32]) {
    for (y, &x) in ys.iter_mut().zip(xs) {
        *y = x * normal(x).0;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn gelu_gradient(xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
    for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
        let (cdf, density) = normal(x);
        *dx = dy * (cdf + x * density);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn quick_gelu(xs: &[f32], ys: &mut [f32]) {
    for (y, &x) in ys.iter_mut().zip(xs) {
        *y = x * sigmoid(1.702 * x);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn quick_gelu_gradient(xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
    for (dx, (&x, dy)) in dxs.iter_mut().zip(xs.iter().zip(dys)) {
        let s = sigmoid(1.702 * x);
        *dx = dy * (s + 1.702 * x * s * (1.0 - s));
    }
}
