use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use cpu_kernels::Isa;
use rayon::prelude::*;

use crate::attached::attach;
use crate::{ForwardContext, LinearLayer, Result, cuda, host};

/// An elementwise non-linearity, named as in `hidden_act` of a Hugging Face configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: `x Φ(x)` with the exact normal distribution (Hendrycks and Gimpel, 2016).
    Gelu,
    /// `quick_gelu`: `x σ(1.702 x)`, as CLIP uses it.
    QuickGelu,
    /// `gelu_new` and `gelu_pytorch_tanh`: `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, as in GPT-2 and Gemma.
    GeluTanh,
    /// `silu` and `swish`: `x σ(x)` (Elfwing, Uchibe and Doya, 2017), as in Llama.
    Silu,
}

impl Activation {
    /// The activation that a configuration calls `name`, if it is one of these.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    /// Applies the activation to every element of a tensor of any shape; differentiable.
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
            return Ok(xs.contiguous()?.apply_op1(ActivationOp { activation: self, isa: host::isa()? })?);
        }
        if let Some(ys) = cuda::activation(xs, self)? {
            return Ok(ys);
        }
        Ok(match self {
            // Candle's own gradient rounds 1 / √(2π) to six digits.
            Self::Gelu => {
                let x = xs.detach();
                attach("gelu", xs, x.gelu_erf()?, move |dys| {
                    let cdf = (((&x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                    let density = ((x.sqr()? * -0.5)?.exp()? * (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI))?;
                    dys * (cdf + (&x * density)?)?
                })?
            }
            Self::QuickGelu => (xs * sigmoid(&(xs * 1.702)?)?)?,
            Self::Silu => (xs * sigmoid(xs)?)?,
            Self::GeluTanh => {
                let cubic = (xs.sqr()? * 0.044715)?.affine(1.0, 1.0)?;
                (xs * sigmoid(&((xs * cubic)? * (FRAC_2_SQRT_PI * SQRT_2))?)?)?
            }
        })
    }
}

/// `σ(u) = (1 + tanh(u / 2)) / 2`, composed of differentiable operations.
fn sigmoid(us: &Tensor) -> Result<Tensor> {
    Ok((((us * 0.5)?.tanh()? + 1.0)? * 0.5)?)
}

impl Activation {
    /// Applies the activation to the result of `layer`; differentiable. On a GPU, a frozen layer without an adapter adds its bias in the
    /// launch of the activation.
    pub(crate) fn after(self, layer: &dyn LinearLayer, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        if xs.device().is_cuda()
            && let Some(frozen) = layer.adapted(ctx)?.filter(|layer| !layer.has_adapter())
            && let Some(ys) = frozen.base().activated(xs, self)?
        {
            return Ok(ys);
        }
        self.forward(&layer.forward(xs, ctx)?)
    }

    /// Applies the activation to values in host memory, on one thread.
    pub(crate) fn apply(self, isa: Isa, xs: &[f32], ys: &mut [f32]) {
        match self {
            Self::Gelu => cpu_kernels::gelu(isa, xs, ys),
            Self::QuickGelu => cpu_kernels::quick_gelu(isa, xs, ys),
            Self::GeluTanh => cpu_kernels::gelu_tanh(isa, xs, ys),
            Self::Silu => cpu_kernels::silu(isa, xs, ys),
        }
    }

    /// Computes `dxs`, the gradient of the values `xs`, from `dys`, the gradient of the result; on one thread.
    pub(crate) fn gradient(self, isa: Isa, xs: &[f32], dys: &[f32], dxs: &mut [f32]) {
        match self {
            Self::Gelu => cpu_kernels::gelu_gradient(isa, xs, dys, dxs),
            Self::QuickGelu => cpu_kernels::quick_gelu_gradient(isa, xs, dys, dxs),
            Self::GeluTanh => cpu_kernels::gelu_tanh_gradient(isa, xs, dys, dxs),
            Self::Silu => cpu_kernels::silu_gradient(isa, xs, dys, dxs),
        }
    }
}

/// Number of values of a task: enough to outweigh its scheduling, few enough to stay in the cache.
const CHUNK: usize = 16 * 1024;

struct ActivationOp {
    activation: Activation,
    isa: Isa,
}

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(storage, layout)?;
        let mut ys = vec![0.0; xs.len()];
        ys.par_chunks_mut(CHUNK)
            .zip(xs.par_chunks(CHUNK))
            .for_each(|(ys, xs)| self.activation.apply(self.isa, xs, ys));
        Ok((CpuStorage::F32(ys), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let (dys, x) = (host::values(&grad_view)?, host::values(&xs_view)?);
        let mut dxs = vec![0.0; x.len()];
        (dxs.par_chunks_mut(CHUNK), x.par_chunks(CHUNK), dys.par_chunks(CHUNK))
            .into_par_iter()
            .for_each(|(dxs, xs, dys)| self.activation.gradient(self.isa, xs, dys, dxs));
        Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
    }
}
