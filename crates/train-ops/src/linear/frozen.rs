use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Storage, Tensor, bail};

use super::{check_input, check_weights, with_last_dim};
use crate::attached::Attached;
use crate::matmul::{Matrix, Threads, matmul};
use crate::{LinearLayer, Pass, Result, host};

/// `y = x Wᵀ + b` with constant `W` and `b`.
///
/// The backward pass is `dx = dy W` and nothing else: candle's own product would also compute and keep `dW`, which is
/// as much work again. The weight may be stored in f32 or bf16; activations and sums are f32 on the CPU.
#[derive(Clone, Debug)]
pub struct FrozenLinear {
    path: String,
    weight: Tensor,
    bias: Option<Tensor>,
    out_features: usize,
    in_features: usize,
}

impl FrozenLinear {
    /// From a weight of shape `(out_features, in_features)` and a bias of shape `(out_features)`. Gradients that the
    /// tensors may track are cut off.
    pub fn new(path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = check_weights(path, &weight, bias.as_ref())?;
        let bias = bias.map(|bias| bias.detach().to_dtype(DType::F32)?.contiguous()).transpose()?;
        Ok(Self {
            path: path.to_owned(),
            weight: weight.detach().contiguous()?,
            bias,
            out_features,
            in_features,
        })
    }

    /// Dotted checkpoint path of the layer.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The weight, of shape `(out_features, in_features)`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, of shape `(out_features)`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The weight as f32 values in host memory, converted when it is stored in bf16.
    pub(super) fn host_weight(&self) -> candle_core::Result<HostWeight<'_>> {
        Ok(HostWeight { view: self.weight.storage_and_layout() })
    }

    /// `x Wᵀ + b` on the host for `rows` rows of `xs`.
    pub(super) fn product(&self, xs: &[f32], rows: usize) -> candle_core::Result<Vec<f32>> {
        let mut ys = match &self.bias {
            Some(bias) => host::values(&bias.storage_and_layout())?.repeat(rows),
            None => vec![0.0; rows * self.out_features],
        };
        let weight = self.host_weight()?;
        let weight = weight.values()?;
        matmul(
            &mut ys,
            self.out_features,
            1.0,
            1.0,
            Matrix::new(xs, rows, self.in_features),
            Matrix::new(&weight, self.out_features, self.in_features).t(),
            Threads::Pool,
        );
        Ok(ys)
    }

    /// `dy W` on the host for `rows` rows of `grad`.
    pub(super) fn product_backward(&self, grad: &[f32], rows: usize) -> candle_core::Result<Vec<f32>> {
        let mut grad_xs = vec![0.0; rows * self.in_features];
        let weight = self.host_weight()?;
        let weight = weight.values()?;
        matmul(
            &mut grad_xs,
            self.in_features,
            0.0,
            1.0,
            Matrix::new(grad, rows, self.out_features),
            Matrix::new(&weight, self.out_features, self.in_features),
            Threads::Pool,
        );
        Ok(grad_xs)
    }

    /// The layer by candle's operations, for devices without an own kernel.
    pub(super) fn composed(&self, xs: &Tensor) -> Result<Tensor> {
        let dtype = self.weight.dtype();
        let flat = xs.detach().reshape(((), self.in_features))?.to_dtype(dtype)?;
        let mut ys = flat.matmul(&self.weight.t()?)?.to_dtype(xs.dtype())?;
        if let Some(bias) = &self.bias {
            ys = ys.broadcast_add(&bias.to_dtype(xs.dtype())?)?;
        }
        let ys = ys.reshape(with_last_dim(xs.shape(), self.out_features))?;
        let (weight, in_features) = (self.weight.clone(), self.in_features);
        let backward = move |grad: &Tensor| {
            let flat = grad.reshape(((), weight.dim(0)?))?.to_dtype(dtype)?;
            let grad_xs = flat.matmul(&weight)?.to_dtype(grad.dtype())?;
            grad_xs.reshape(with_last_dim(grad.shape(), in_features))
        };
        Ok(xs.contiguous()?.apply_op1(Attached::new("frozen_linear", ys, backward))?)
    }
}

impl LinearLayer for FrozenLinear {
    fn forward(&self, xs: &Tensor, _pass: &Pass) -> Result<Tensor> {
        check_input(&self.path, xs, self.in_features)?;
        if host::is_host_f32(xs) {
            return Ok(xs.contiguous()?.apply_op1(FrozenLinearOp(self.clone()))?);
        }
        self.composed(xs)
    }

    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }
}

/// A locked weight in host memory.
pub(super) struct HostWeight<'a> {
    view: host::View<'a>,
}

impl HostWeight<'_> {
    pub(super) fn values(&self) -> candle_core::Result<Cow<'_, [f32]>> {
        match (&*self.view.0, self.view.1.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) => Ok(Cow::Borrowed(&data[start..end])),
            (Storage::Cpu(CpuStorage::BF16(data)), Some((start, end))) => {
                Ok(Cow::Owned(data[start..end].iter().map(|value| value.to_f32()).collect()))
            }
            _ => bail!("a frozen weight must be stored contiguously in f32 or bf16"),
        }
    }
}

struct FrozenLinearOp(FrozenLinear);

impl CustomOp1 for FrozenLinearOp {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(storage, layout)?;
        let ys = self.0.product(xs, xs.len() / self.0.in_features)?;
        Ok((CpuStorage::F32(ys), with_last_dim(layout.shape(), self.0.out_features)))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let view = grad.storage_and_layout();
        let grad_xs = self.0.product_backward(host::values(&view)?, xs.elem_count() / self.0.in_features)?;
        Tensor::from_vec(grad_xs, xs.shape(), xs.device()).map(Some)
    }
}
