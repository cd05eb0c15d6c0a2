use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use cpu_kernels::{Init, Precision, Rows, Term, int8_product, product};
use rayon::prelude::*;

use super::{LayerInput, PackedWeight, check_input, check_weights, with_last_dim};
use crate::attached::attach;
use crate::{Activation, AdaptedLinear, DeviceGraph, Error, ForwardContext, LinearLayer, Result, cuda, host};

/// `y = x Wᵀ + b` with constant `W` and `b`.
///
/// The backward pass computes only `dx = dy W`. Candle's own product would also compute and keep `dW`, which
/// doubles the work.
///
/// On the CPU a weight in f32 or bf16 is packed in the order in which the forward pass reads it, and its tensor is dropped. The
/// first backward pass packs it again in its own order. Sums are f32. A bf16 weight is multiplied by activations rounded to
/// bf16. [`to_int8`](Self::to_int8) and [`to_int8_products`](Self::to_int8_products) make int8 weights.
#[derive(Clone, Debug)]
pub struct FrozenLinear {
    pub(super) path: String,
    pub(super) weight: Weight,
    pub(super) bias: Option<Tensor>,
    pub(super) out_features: usize,
    pub(super) in_features: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Weight {
    Packed(Arc<PackedWeight>),
    /// On another device, or of another type. On a GPU with kernels, rows of zeros fill it up to a multiple of [`GPU_ROWS`].
    Plain(Tensor),
}

/// Rows of a product of `xs` and all rows of a weight on a GPU then begin at multiples of 16 bytes, as cuBLAS and kernels need them to
/// be fast. GIT's head has 30,522 rows. A head that is tied to the embedding is in memory twice then.
const GPU_ROWS: usize = 8;

impl FrozenLinear {
    /// From a weight of shape `(out_features, in_features)` and a bias of shape `(out_features)`. Tensors that
    /// track gradients are detached.
    ///
    /// # Errors
    /// If the shapes are not these, or are empty.
    pub fn new(path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = check_weights(path, &weight, bias.as_ref())?;
        let bias = bias.map(|bias| bias.detach().to_dtype(DType::F32)?.contiguous()).transpose()?;
        Ok(Self {
            path: path.to_owned(),
            weight: Weight::new(weight.detach().contiguous()?)?,
            bias,
            out_features,
            in_features,
        })
    }

    /// Dotted checkpoint path of the layer.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The weight, of shape `(out_features, in_features)`, in the type [`dtype`](Self::dtype). On the CPU this makes a tensor of
    /// the packed values.
    pub fn weight(&self) -> Result<Tensor> {
        Ok(self.weight_tensor()?)
    }

    fn weight_tensor(&self) -> candle_core::Result<Tensor> {
        self.padded_weight()?.narrow(0, 0, self.out_features)
    }

    /// The weight with the rows of zeros that fill it up.
    pub(crate) fn padded_weight(&self) -> candle_core::Result<Tensor> {
        let packed = match &self.weight {
            Weight::Plain(weight) => return Ok(weight.clone()),
            Weight::Packed(packed) => &packed.forward,
        };
        let mut values = Vec::with_capacity(self.out_features * self.in_features);
        for n in 0..self.out_features {
            values.extend((0..self.in_features).map(|k| packed.get(k, n)));
        }
        let weight = Tensor::from_vec(values, (self.out_features, self.in_features), &Device::Cpu)?;
        weight.to_dtype(self.dtype())
    }

    /// The type that the weight is stored in; f32 for int8.
    pub fn dtype(&self) -> DType {
        match &self.weight {
            Weight::Plain(weight) => weight.dtype(),
            Weight::Packed(packed) => match packed.forward.precision() {
                Precision::F32 | Precision::Int8 => DType::F32,
                Precision::Bf16 => DType::BF16,
            },
        }
    }

    /// Where the weight is.
    pub fn device(&self) -> &Device {
        match &self.weight {
            Weight::Plain(weight) => weight.device(),
            Weight::Packed(_) => &Device::Cpu,
        }
    }

    /// The bias, of shape `(out_features)`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The layer with another bias of shape `(out_features)`, or with none. Both layers share the weight.
    ///
    /// # Errors
    /// If the bias has another shape.
    pub fn with_bias(&self, bias: Option<Tensor>) -> Result<Self> {
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [self.out_features]) {
            return Err(Error::Shape {
                path: format!("{}.bias", self.path),
                expected: format!("({})", self.out_features),
                got: bias.dims().to_vec(),
            });
        }
        let bias = bias.map(|bias| bias.detach().to_dtype(DType::F32)?.contiguous()).transpose()?;
        Ok(Self { bias, ..self.clone() })
    }

    /// The packed weight, if it is in host memory.
    pub(crate) fn packed(&self) -> Option<Arc<PackedWeight>> {
        match &self.weight {
            Weight::Packed(packed) => Some(Arc::clone(packed)),
            Weight::Plain(_) => None,
        }
    }

    /// `ys = x Wᵀ + b` on the host for an input in the format of the packed weight, plus `through_adapter`.
    pub(crate) fn sum(
        &self,
        ys: &mut [f32],
        weight: &PackedWeight,
        input: &LayerInput<'_>,
        through_adapter: Option<Term<'_>>,
    ) -> candle_core::Result<()> {
        let view = self.bias.as_ref().map(Tensor::storage_and_layout);
        let init = match &view {
            Some(view) => Init::Bias(host::values(view)?),
            None => Init::Zero,
        };
        let n = self.out_features;
        match input {
            LayerInput::Int8(rows) => {
                int8_product(ys, n, init, (rows, &weight.forward), through_adapter);
            }
            LayerInput::Float(operand) if weight.forward.precision() == Precision::Int8 => {
                // Dequantised before bias and adapter.
                product(ys, n, Init::Zero, &[Term::new(operand, &weight.forward)]);
                let bias = match init {
                    Init::Bias(bias) => bias,
                    _ => &[],
                };
                ys.par_chunks_mut(n.max(1)).for_each(|ys| {
                    ys.iter_mut().zip(weight.forward.scales()).for_each(|(y, scale)| *y *= scale);
                    ys.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                });
                if let Some(term) = through_adapter {
                    product(ys, n, Init::Accumulate, &[term]);
                }
            }
            LayerInput::Float(operand) => {
                let first = Term::new(operand, &weight.forward);
                match through_adapter {
                    Some(term) => product(ys, n, init, &[first, term]),
                    None => product(ys, n, init, &[first]),
                }
            }
        }
        Ok(())
    }

    /// `x Wᵀ + b` on tensors, `(rows, in_features)` to `(rows, out_features)`, for devices without kernels.
    pub(crate) fn forward_tensor(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let ys = xs.to_dtype(self.dtype())?.matmul(&self.weight_tensor()?.t()?)?.to_dtype(xs.dtype())?;
        match &self.bias {
            Some(bias) => ys.broadcast_add(&bias.to_dtype(xs.dtype())?),
            None => Ok(ys),
        }
    }

    /// `dy W` on tensors, `(rows, out_features)` to `(rows, in_features)`.
    pub(crate) fn backward_tensor(&self, dys: &Tensor) -> candle_core::Result<Tensor> {
        dys.to_dtype(self.dtype())?.matmul(&self.weight_tensor()?)?.to_dtype(dys.dtype())
    }

    /// The activation of the layer's result, for a GPU whose kernels add the bias on the way; `None` elsewhere.
    pub(crate) fn activated(&self, xs: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
        check_input(&self.path, xs, self.in_features)?;
        self.refuse_int8(xs)?;
        Ok(cuda::activated_linear(xs, self, activation)?)
    }

    /// The layer composed of candle's operations.
    fn composed(&self, xs: &Tensor) -> Result<Tensor> {
        self.refuse_int8(xs)?;
        if let Some(ys) = cuda::frozen_linear(xs, self)? {
            return Ok(ys);
        }
        let rows = xs.elem_count() / self.in_features;
        let shape = with_last_dim(xs.shape(), self.out_features);
        let ys = self.forward_tensor(&xs.detach().reshape((rows, self.in_features))?)?.reshape(shape)?;
        let (layer, in_shape) = (self.clone(), xs.shape().clone());
        let backward = move |dys: &Tensor| {
            layer.backward_tensor(&dys.reshape((rows, layer.out_features))?)?.reshape(&in_shape)
        };
        Ok(attach("frozen_linear", xs, ys, backward)?)
    }
}

impl Weight {
    /// A contiguous weight, packed if there are kernels for it.
    fn new(weight: Tensor) -> Result<Self> {
        if let Some(packed) = PackedWeight::from_tensor(&weight)? {
            return Ok(Self::Packed(Arc::new(packed)));
        }
        let rows = weight.dim(0)?;
        let is_padded = DeviceGraph::is_supported(weight.device());
        let padding = if is_padded { rows.next_multiple_of(GPU_ROWS) - rows } else { 0 };
        Ok(Self::Plain(weight.pad_with_zeros(0, 0, padding)?))
    }
}

impl LinearLayer for FrozenLinear {
    fn forward(&self, xs: &Tensor, _ctx: &ForwardContext) -> Result<Tensor> {
        check_input(&self.path, xs, self.in_features)?;
        match self.packed().filter(|_| host::is_host_f32(xs)) {
            Some(packed) => Ok(xs.contiguous()?.apply_op1(FrozenLinearOp { layer: self.clone(), packed })?),
            None => self.composed(xs),
        }
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }

    fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
        AdaptedLinear::new(self, None).map(Some)
    }
}

struct FrozenLinearOp {
    layer: FrozenLinear,
    packed: Arc<PackedWeight>,
}

impl CustomOp1 for FrozenLinearOp {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(storage, layout)?;
        let shape = with_last_dim(layout.shape(), self.layer.out_features);
        let mut ys = vec![0.0; shape.elem_count()];
        let input = self.packed.input(Rows::new(xs, self.layer.in_features));
        self.layer.sum(&mut ys, &self.packed, &input, None)?;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let view = grad.storage_and_layout();
        let dys = Rows::new(host::values(&view)?, self.layer.out_features);
        let mut grad_xs = vec![0.0; xs.elem_count()];
        self.packed.sum_backward((&mut grad_xs, Init::Zero), dys, None, None);
        Tensor::from_vec(grad_xs, xs.shape(), xs.device()).map(Some)
    }
}
