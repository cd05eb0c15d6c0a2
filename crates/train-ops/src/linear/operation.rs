use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, bail};

use cpu_kernels::{Buffer, Init, Rows};

use super::adapted::{AdaptedLinear, RowLinear};
use super::lora::Lora;
use super::{FrozenLinear, check_input, with_last_dim};
use crate::attached::attach3;
use crate::dropout::factors;
use crate::{Dropout, ForwardContext, LinearLayer, Result, cuda, host};

/// The trainable part of a linear layer with a low-rank adapter.
#[derive(Clone, Copy, Debug)]
pub struct LoraWeights<'a> {
    /// `A`, the down-projection, of shape `(r, in_features)`, f32.
    pub a: &'a Tensor,
    /// `B`, the up-projection, of shape `(out_features, r)`, f32.
    pub b: &'a Tensor,
    /// `s`, usually `lora_alpha / r`.
    pub scale: f64,
    /// Dropout on the input of `A`.
    pub dropout: &'a Dropout,
}

/// `y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ`: a frozen layer with a low-rank adapter (Hu et al., 2021,
/// <https://arxiv.org/abs/2106.09685>; as PEFT's `lora.Linear`) as one operation.
///
/// `xs` has shape `(..., in_features)`. The result is differentiable in `xs`, `a` and `b` if these track
/// gradients; the gradient of `W` is never computed.
///
/// # Errors
/// If shapes do not agree, or `base` is int8 and `xs` is not f32 on the CPU.
pub fn lora_linear(
    xs: &Tensor,
    base: &FrozenLinear,
    lora: LoraWeights<'_>,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    check_input(base.path(), xs, base.in_features())?;
    let layer = AdaptedLinear::new(base, Some(lora))?;
    if host::is_host_f32(xs)
        && let Some(rows) = layer.on_rows(xs.dims(), ctx)?
    {
        let op = LoraLinearOp { rows, hidden: OnceLock::new() };
        return Ok(xs.contiguous()?.apply_op3(&lora.a.contiguous()?, &lora.b.contiguous()?, op)?);
    }
    base.refuse_int8(xs)?;
    let mask = lora.dropout.mask(xs.dims(), ctx)?;
    if let Some(ys) = cuda::lora_linear(xs, base, [lora.a, lora.b], lora.scale, mask.as_ref())? {
        return Ok(ys);
    }
    composed(xs, base, &Lora::new(base, lora)?, ctx)
}

/// The layer composed of candle's operations, for devices without kernels.
fn composed(xs: &Tensor, base: &FrozenLinear, lora: &Lora, ctx: &ForwardContext) -> Result<Tensor> {
    let flat = (xs.elem_count() / base.in_features(), base.in_features());
    let rows = xs.detach().reshape(flat)?;
    let factors = match lora.dropout.mask(xs.dims(), ctx)? {
        Some(mask) => Some(factors(&mask, &Shape::from(flat), lora.a.dtype(), xs.device())?),
        None => None,
    };
    let shape = with_last_dim(xs.shape(), base.out_features());
    let ys = lora.forward_tensor(base, &rows, factors.as_ref())?.reshape(shape)?;
    let (captured, base, in_shape) = (lora.clone(), base.clone(), xs.shape().clone());
    let backward = move |dys: &Tensor, needed| {
        let dys = dys.reshape((flat.0, base.out_features()))?;
        let [dxs, grad_a, grad_b] = captured.backward_tensor(&base, &rows, factors.as_ref(), &dys, needed)?;
        Ok([dxs.map(|dxs| dxs.reshape(&in_shape)).transpose()?, grad_a, grad_b])
    };
    Ok(attach3("lora_linear", [xs, &lora.a, &lora.b], ys, backward)?)
}

struct LoraLinearOp {
    rows: RowLinear,
    /// `h = drop(x) Aᵀ` of the forward pass, `(rows, r)`.
    hidden: OnceLock<Buffer>,
}

impl CustomOp3 for LoraLinearOp {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        _a: &CpuStorage,
        _a_layout: &Layout,
        _b: &CpuStorage,
        _b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(xs, xs_layout)?;
        let shape = with_last_dim(xs_layout.shape(), self.rows.out_features());
        let mut ys = vec![0.0; shape.elem_count()];
        let xs = Rows::new(xs, self.rows.in_features());
        let hidden = self.rows.forward(xs, &self.rows.input(xs), &mut ys)?;
        if let Some(hidden) = hidden {
            let _ = self.hidden.set(hidden);
        }
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let (dys, x) = (host::values(&grad_view)?, host::values(&xs_view)?);
        // The input of the first adapted layer may be frozen: then its gradient is not needed.
        let mut dxs = xs.track_op().then(|| vec![0.0; x.len()]);
        let wanted = dxs.as_mut().map(|dxs| (dxs.as_mut_slice(), Init::Zero));
        let (x, dys) = (Rows::new(x, self.rows.in_features()), Rows::new(dys, self.rows.out_features()));
        let Some([grad_a, grad_b]) = self.rows.backward(x, self.hidden.get(), dys, wanted)? else {
            bail!("lora_linear: backward before forward")
        };
        let gradient = |values: Vec<f32>, of: &Tensor| {
            of.track_op().then(|| Tensor::from_vec(values, of.shape(), of.device())).transpose()
        };
        let dxs = dxs.map(|dxs| Tensor::from_vec(dxs, xs.shape(), xs.device())).transpose()?;
        Ok((dxs, gradient(grad_a, a)?, gradient(grad_b, b)?))
    }
}
