use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor, bail};

use super::{FrozenLinear, check_input, with_last_dim};
use crate::dropout::Mask;
use crate::matmul::{Matrix, Threads, matmul};
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
    if !host::is_host_f32(xs) {
        let dropped = lora.dropout.forward(xs, pass)?;
        let flat = dropped.reshape(((), in_features))?.to_dtype(lora.a.dtype())?;
        let delta = (flat.matmul(&lora.a.t()?)?.matmul(&lora.b.t()?)? * lora.scale)?;
        let delta = delta.reshape(with_last_dim(xs.shape(), out_features))?.to_dtype(xs.dtype())?;
        return Ok((base.composed(xs)? + delta)?);
    }
    let op = LoraLinearOp {
        base: base.clone(),
        rank,
        scale: lora.scale as f32,
        mask: lora.dropout.mask(xs.dims(), pass)?,
        hidden: OnceLock::new(),
    };
    Ok(xs.contiguous()?.apply_op3(&lora.a.contiguous()?, &lora.b.contiguous()?, op)?)
}

struct LoraLinearOp {
    base: FrozenLinear,
    rank: usize,
    scale: f32,
    mask: Option<Mask>,
    /// `h = drop(x) Aᵀ` of the forward pass, `(rows, r)`.
    hidden: OnceLock<Vec<f32>>,
}

impl LoraLinearOp {
    fn dropped(&self, xs: &[f32]) -> Option<Vec<f32>> {
        let mask = self.mask.as_ref()?;
        let mut xs = xs.to_vec();
        mask.apply(&mut xs);
        Some(xs)
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
        let rows = xs.len() / in_features;
        let dropped = self.dropped(xs);
        let mut hidden = vec![0.0; rows * self.rank];
        matmul(
            &mut hidden,
            self.rank,
            0.0,
            1.0,
            Matrix::new(dropped.as_deref().unwrap_or(xs), rows, in_features),
            Matrix::new(a, self.rank, in_features).t(),
            Threads::Pool,
        );
        let mut ys = self.base.product(xs, rows)?;
        matmul(
            &mut ys,
            out_features,
            1.0,
            self.scale,
            Matrix::new(&hidden, rows, self.rank),
            Matrix::new(b, out_features, self.rank).t(),
            Threads::Pool,
        );
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
        let grad = grad.contiguous()?;
        let (grad_view, xs_view) = (grad.storage_and_layout(), xs.storage_and_layout());
        let (a_view, b_view) = (a.storage_and_layout(), b.storage_and_layout());
        let (dys, x) = (host::values(&grad_view)?, host::values(&xs_view)?);
        let (a_values, b_values) = (host::values(&a_view)?, host::values(&b_view)?);
        let rows = x.len() / in_features;
        let Some(hidden) = self.hidden.get() else { bail!("lora_linear: backward before forward") };
        let dys_matrix = Matrix::new(dys, rows, out_features);

        let mut grad_b = vec![0.0; out_features * rank];
        let hidden = Matrix::new(hidden, rows, rank);
        matmul(&mut grad_b, rank, 0.0, self.scale, dys_matrix.t(), hidden, Threads::Pool);

        let mut grad_hidden = vec![0.0; rows * rank];
        let b_matrix = Matrix::new(b_values, out_features, rank);
        matmul(&mut grad_hidden, rank, 0.0, self.scale, dys_matrix, b_matrix, Threads::Pool);
        let grad_hidden = Matrix::new(&grad_hidden, rows, rank);

        let dropped = self.dropped(x);
        let mut grad_a = vec![0.0; rank * in_features];
        let dropped = Matrix::new(dropped.as_deref().unwrap_or(x), rows, in_features);
        matmul(&mut grad_a, in_features, 0.0, 1.0, grad_hidden.t(), dropped, Threads::Pool);

        // The input of the first adapted layer may be frozen: then its gradient is not needed.
        let grad_xs = xs.track_op().then(|| -> candle_core::Result<Tensor> {
            let mut grad_xs = self.base.product_backward(dys, rows)?;
            let a_matrix = Matrix::new(a_values, rank, in_features);
            match &self.mask {
                None => matmul(&mut grad_xs, in_features, 1.0, 1.0, grad_hidden, a_matrix, Threads::Pool),
                Some(mask) => {
                    let mut through_adapter = vec![0.0; rows * in_features];
                    matmul(&mut through_adapter, in_features, 0.0, 1.0, grad_hidden, a_matrix, Threads::Pool);
                    mask.apply(&mut through_adapter);
                    grad_xs.iter_mut().zip(through_adapter).for_each(|(sum, term)| *sum += term);
                }
            }
            Tensor::from_vec(grad_xs, xs.shape(), xs.device())
        });
        Ok((
            grad_xs.transpose()?,
            Some(Tensor::from_vec(grad_a, a.shape(), a.device())?),
            Some(Tensor::from_vec(grad_b, b.shape(), b.device())?),
        ))
    }
}
