use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, bail};

use super::{FrozenLinear, Packed, check_input, with_last_dim};
use crate::dropout::Mask;
use crate::kernels::{PackedMatrix, Precision, Start, Term, outer_sum, product};
use crate::{Dropout, Error, LinearLayer, Pass, Result, host};

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
/// `xs` has shape `(..., in_features)`. Backward computes, with `h = drop(x) Aᵀ` kept from the forward pass,
///
/// ```text
/// dB = s dyᵀ h        dh = s dy B        dA = dhᵀ drop(x)        dx = dy W + dropᵀ(dh A)
/// ```
///
/// and neither `dW` nor the full-size `B A`. Gradients flow to `xs`, `a` and `b` where these track them.
pub fn lora_linear(xs: &Tensor, base: &FrozenLinear, lora: LoraWeights<'_>, pass: &Pass) -> Result<Tensor> {
    let (in_features, out_features) = (base.in_features(), base.out_features());
    check_input(base.path(), xs, in_features)?;
    let rank = lora.a.dims().first().copied().unwrap_or(0);
    for (name, tensor, expected) in
        [("lora_A", lora.a, [rank, in_features]), ("lora_B", lora.b, [out_features, rank])]
    {
        if tensor.dims() != expected {
            return Err(Error::Shape {
                path: format!("{}.{name}.weight", base.path()),
                expected: format!("({}, {})", expected[0], expected[1]),
                got: tensor.dims().to_vec(),
            });
        }
    }
    let Some(packed) = base.packed_for(xs) else {
        let dropped = lora.dropout.forward(xs, pass)?;
        let flat = dropped.reshape(((), in_features))?.to_dtype(lora.a.dtype())?;
        let delta = (flat.matmul(&lora.a.t()?)?.matmul(&lora.b.t()?)? * lora.scale)?;
        let delta = delta.reshape(with_last_dim(xs.shape(), out_features))?.to_dtype(xs.dtype())?;
        return Ok((base.composed(xs)? + delta)?);
    };
    let op = LoraLinearOp {
        base: base.clone(),
        packed,
        rank,
        scale: lora.scale as f32,
        mask: lora.dropout.mask(xs.dims(), pass)?,
        hidden: OnceLock::new(),
    };
    Ok(xs.contiguous()?.apply_op3(&lora.a.contiguous()?, &lora.b.contiguous()?, op)?)
}

struct LoraLinearOp {
    base: FrozenLinear,
    packed: Arc<Packed>,
    rank: usize,
    scale: f32,
    mask: Option<Mask>,
    /// `h = drop(x) Aᵀ` of the forward pass, `(rows, r)`.
    hidden: OnceLock<Vec<f32>>,
}

impl LoraLinearOp {
    /// A matrix of the adapter, for this processor.
    fn pack(&self, k: usize, n: usize, element: impl Fn(usize, usize) -> f32 + Sync) -> PackedMatrix {
        PackedMatrix::new(self.packed.forward.isa(), Precision::F32, k, n, element)
    }
}

impl CustomOp3 for LoraLinearOp {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (in_features, out_features) = (self.base.in_features(), self.base.out_features());
        let (xs, a, b) = (host::slice(xs, xs_layout)?, host::slice(a, a_layout)?, host::slice(b, b_layout)?);
        let (rows, rank) = (xs.len() / in_features, self.rank);

        let a = self.pack(in_features, rank, |k, n| a[n * in_features + k]);
        let through_a = Term { a_mask: self.mask.as_ref(), ..Term::new(xs, &a) };
        let hidden = product(rows, rank, Start::Zero, &[through_a]);

        let b = self.pack(rank, out_features, |k, n| self.scale * b[n * rank + k]);
        let terms = [Term::new(xs, &self.packed.forward), Term::new(&hidden, &b)];
        let ys = self.base.sum(rows, &terms)?;
        // An inference pass runs the op once and drops it; set() then only ever succeeds.
        let _ = self.hidden.set(hidden);
        Ok((CpuStorage::F32(ys), with_last_dim(xs_layout.shape(), out_features)))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (in_features, out_features, rank) =
            (self.base.in_features(), self.base.out_features(), self.rank);
        let isa = self.packed.forward.isa();
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let (a_view, b_view) = (a.storage_and_layout(), b.storage_and_layout());
        let (dys, x) = (host::values(&grad_view)?, host::values(&xs_view)?);
        let (a_values, b_values) = (host::values(&a_view)?, host::values(&b_view)?);
        let rows = x.len() / in_features;
        let Some(hidden) = self.hidden.get() else { bail!("lora_linear: backward before forward") };

        let transposed = outer_sum(isa, hidden, dys, rows, None);
        let grad_b = (0..out_features * rank)
            .map(|index| self.scale * transposed[index % rank * out_features + index / rank])
            .collect();

        let packed_b = self.pack(out_features, rank, |k, n| self.scale * b_values[k * rank + n]);
        let grad_hidden = product(rows, rank, Start::Zero, &[Term::new(dys, &packed_b)]);
        let grad_a = outer_sum(isa, &grad_hidden, x, rows, self.mask.as_ref());

        // The input of the first adapted layer may be frozen: then its gradient is not needed.
        let grad_xs = xs.track_op().then(|| {
            let packed_a = self.pack(rank, in_features, |k, n| a_values[k * in_features + n]);
            let through_a = Term { mask: self.mask.as_ref(), ..Term::new(&grad_hidden, &packed_a) };
            let terms = [Term::new(dys, self.packed.backward()), through_a];
            let grad_xs = product(rows, in_features, Start::Zero, &terms);
            Tensor::from_vec(grad_xs, xs.shape(), xs.device())
        });
        Ok((
            grad_xs.transpose()?,
            Some(Tensor::from_vec(grad_a, a.shape(), a.device())?),
            Some(Tensor::from_vec::<_, f32>(grad_b, b.shape(), b.device())?),
        ))
    }
}
