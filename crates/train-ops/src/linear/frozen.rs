use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};
use cpu_kernels::{Init, Operand, Precision, Rows, Term, product};
use rayon::prelude::*;

use super::{PackedWeight, check_input, check_weights, with_last_dim};
use crate::attached::attach;
use crate::{AdaptedLinear, Error, ForwardContext, LinearLayer, Result, cuda, host};

/// `y = x Wᵀ + b` with constant `W` and `b`.
///
/// The backward pass is `dx = dy W` and nothing else: candle's own product would also compute and keep `dW`, which is
/// as much work again.
///
/// On the CPU a weight in f32 or bf16 is packed in the order in which the forward pass reads it, and its tensor is dropped. The
/// first backward pass packs it again in its own order. Sums are f32. A bf16 weight is multiplied by activations rounded to
/// bf16.
#[derive(Clone, Debug)]
pub struct FrozenLinear {
    path: String,
    weight: Weight,
    bias: Option<Tensor>,
    pub(super) out_features: usize,
    pub(super) in_features: usize,
}

#[derive(Clone, Debug)]
enum Weight {
    Packed(Arc<PackedWeight>),
    /// On another device, or of another type.
    Plain(Tensor),
}

impl FrozenLinear {
    /// From a weight of shape `(out_features, in_features)` and a bias of shape `(out_features)`. Gradients that the
    /// tensors may track are cut off.
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

    /// As [`new`](Self::new) and [`to_int8`](Self::to_int8).
    ///
    /// # Errors
    /// As of these.
    pub fn quantised(path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let weight = if weight.device().is_cpu() { weight.to_dtype(DType::F32)? } else { weight };
        Self::new(path, weight, bias)?.to_int8()
    }

    /// The layer with an int8 weight and a scale for each of its rows, the row's largest magnitude / 127: no weight is off by
    /// more than half a scale. Activations and sums are f32. Takes a quarter of the memory of f32, whose bandwidth limits
    /// decoding.
    ///
    /// # Errors
    /// If the weight is not on the CPU.
    pub fn to_int8(&self) -> Result<Self> {
        let quantised = match &self.weight {
            Weight::Packed(packed) if packed.forward.precision() == Precision::Int8 => {
                return Ok(self.clone());
            }
            Weight::Packed(packed) => packed.forward.quantised(),
            Weight::Plain(weight) => {
                let packed = match weight.device().is_cpu() {
                    true => PackedWeight::from_tensor(&weight.to_dtype(DType::F32)?)?,
                    false => None,
                };
                packed.ok_or_else(|| self.int8_error(weight))?.forward.quantised()
            }
        };
        Ok(Self { weight: Weight::Packed(Arc::new(PackedWeight::new(quantised))), ..self.clone() })
    }

    fn int8_error(&self, tensor: &Tensor) -> Error {
        let device = format!("{:?}", tensor.device().location());
        Error::Int8 { path: self.path.clone(), dtype: tensor.dtype(), device }
    }

    /// Refuses activations without a kernel if the weight is int8.
    pub(crate) fn refuse_int8(&self, xs: &Tensor) -> Result<()> {
        match &self.weight {
            Weight::Packed(packed) if packed.forward.precision() == Precision::Int8 => {
                Err(self.int8_error(xs))
            }
            _ => Ok(()),
        }
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

    /// `ys = Σ terms + b` on the host; the first term is the product with the weight.
    pub(crate) fn sum(&self, ys: &mut [f32], terms: &[Term<'_>]) -> candle_core::Result<()> {
        let view = self.bias.as_ref().map(Tensor::storage_and_layout);
        let init = match &view {
            Some(view) => Init::Bias(host::values(view)?),
            None => Init::Zero,
        };
        let n = self.out_features;
        let Some((first, rest)) = terms.split_first().filter(|(first, _)| !first.b.scales().is_empty())
        else {
            product(ys, n, init, terms);
            return Ok(());
        };
        // int8: dequantise the accumulator before bias and adapter.
        product(ys, n, Init::Zero, &[*first]);
        let bias = match init {
            Init::Bias(bias) => bias,
            _ => &[],
        };
        ys.par_chunks_mut(n.max(1)).for_each(|ys| {
            ys.iter_mut().zip(first.b.scales()).for_each(|(y, scale)| *y *= scale);
            ys.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        });
        if !rest.is_empty() {
            product(ys, n, Init::Accumulate, rest);
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

    /// The layer of candle's operations.
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
        let packed = PackedWeight::from_tensor(&weight)?;
        Ok(packed.map_or(Self::Plain(weight), |packed| Self::Packed(Arc::new(packed))))
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
        let xs = Operand::new(Rows::new(xs, self.layer.in_features), &self.packed.forward);
        self.layer.sum(&mut ys, &[Term::new(&xs, &self.packed.forward)])?;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let view = grad.storage_and_layout();
        let dys =
            Operand::new(Rows::new(host::values(&view)?, self.layer.out_features), self.packed.backward());
        let mut grad_xs = vec![0.0; xs.elem_count()];
        let term = Term::new(&dys, self.packed.backward());
        product(&mut grad_xs, self.layer.in_features, Init::Zero, &[term]);
        Tensor::from_vec(grad_xs, xs.shape(), xs.device()).map(Some)
    }
}
