use std::sync::Arc;

use candle_core::Tensor;
use cpu_kernels::{Buffer, DropoutMask, Init, Rows};

use super::lora::{Lora, LoraGradients};
use super::{FrozenLinear, LayerInput, LoraWeights, PackedWeight};
use crate::{Error, ForwardContext, LinearLayer, Result, on_pool};

/// A frozen linear layer, with a low-rank adapter or without, for operations that span several layers. See
/// [`LinearLayer::adapted`](crate::LinearLayer::adapted).
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    pub(crate) base: FrozenLinear,
    pub(super) lora: Option<Lora>,
}

impl AdaptedLinear {
    /// The layer `base` with the adapter `lora`.
    ///
    /// # Errors
    /// If the shapes of `A` and `B` are not `(r, in_features)` and `(out_features, r)` with an `r` of at least 1.
    pub fn new(base: &FrozenLinear, lora: Option<LoraWeights<'_>>) -> Result<Self> {
        let lora = lora.map(|weights| Lora::new(base, weights)).transpose()?;
        Ok(Self { base: base.clone(), lora })
    }

    /// The layer without its adapter.
    pub fn base(&self) -> &FrozenLinear {
        &self.base
    }

    /// Whether there is an adapter.
    pub fn has_adapter(&self) -> bool {
        self.lora.is_some()
    }

    /// Runs the layer forward and backward on rows of host memory, without a graph, as a
    /// [`TransformerLayer`](crate::TransformerLayer) does. It computes `ys` from `xs`, and from `dys` the
    /// gradient `dxs` and, as the result, those of `A` and `B`. `xs` has the shape `dims`,
    /// `(samples * n, ..., in_features)`, whose first dimension is divided among the samples of the pass.
    ///
    /// # Errors
    /// If the weight is not in host memory, or a length is not that of its shape.
    pub fn forward_backward(
        &self,
        (xs, dims): (&[f32], &[usize]),
        ys: &mut [f32],
        dys: &[f32],
        dxs: &mut [f32],
        ctx: &ForwardContext,
    ) -> Result<Option<[Vec<f32>; 2]>> {
        let (n_in, n_out) = (self.base.in_features(), self.base.out_features());
        let rows = xs.len() / n_in.max(1);
        let lengths = [xs.len(), dxs.len(), ys.len(), dys.len()];
        let is_of_dims = dims.last() == Some(&n_in) && dims.iter().product::<usize>() == xs.len();
        let layer = self.on_rows(dims, ctx)?.filter(|_| is_of_dims);
        let expected = [rows * n_in, rows * n_in, rows * n_out, rows * n_out];
        let Some(layer) = layer.filter(|_| lengths == expected) else {
            return Err(Error::Shape {
                path: format!("rows of {}", self.base.path()),
                expected: format!("{expected:?} values in host memory, of shape {dims:?}"),
                got: lengths.to_vec(),
            });
        };
        Ok(on_pool(|| {
            let (xs, dys) = (Rows::new(xs, n_in), Rows::new(dys, n_out));
            let h = layer.forward(xs, &layer.input(xs), ys)?;
            layer.backward(xs, h.as_ref(), dys, Some((dxs, Init::Zero)))
        })?)
    }

    /// The adapter's `A` and `B`.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.lora.iter().flat_map(|lora| [&lora.a, &lora.b])
    }

    /// The layer in one pass on rows of host memory, for an input of shape `dims`; `None` if its weight is elsewhere.
    pub(crate) fn on_rows(&self, dims: &[usize], ctx: &ForwardContext) -> Result<Option<RowLinear>> {
        let Some(weight) = self.base.packed() else { return Ok(None) };
        let mask = match &self.lora {
            Some(lora) => lora.dropout.mask(dims, ctx)?,
            None => None,
        };
        Ok(Some(RowLinear { layer: self.clone(), weight, mask }))
    }
}

/// A linear layer in one pass, on rows of host memory: `y = x Wᵀ + b`, and its adapter if there is one.
pub(crate) struct RowLinear {
    layer: AdaptedLinear,
    weight: Arc<PackedWeight>,
    mask: Option<DropoutMask>,
}

impl RowLinear {
    pub(crate) fn in_features(&self) -> usize {
        self.layer.base.in_features()
    }

    pub(crate) fn out_features(&self) -> usize {
        self.layer.base.out_features()
    }

    /// The rows of an input in the format that the weight needs: once for all layers of one precision.
    pub(crate) fn input<'a>(&self, xs: Rows<'a>) -> LayerInput<'a> {
        self.weight.input(xs)
    }

    /// Computes `ys` from `xs`. `input` is the [conversion](Self::input) of `xs` for this layer or for another
    /// one. Returns `h` of the adapter, `(rows, r)`, for the backward pass.
    pub(crate) fn forward(
        &self,
        xs: Rows<'_>,
        input: &LayerInput<'_>,
        ys: &mut [f32],
    ) -> candle_core::Result<Option<Buffer>> {
        let own;
        let input = if self.weight.takes(input) {
            input
        } else {
            own = self.input(xs);
            &own
        };
        let base = &self.layer.base;
        let Some(lora) = &self.layer.lora else {
            base.sum(ys, &self.weight, input, None)?;
            return Ok(None);
        };
        let packed = lora.pack(&self.weight)?;
        packed.forward(base, &self.weight, self.mask.as_ref(), (xs, input), ys).map(Some)
    }

    /// Computes, from the gradient of `ys` and the `h` of the forward pass, the gradients of `A` and `B`, and
    /// `dx` if it is wanted, added to its [`Init`].
    pub(crate) fn backward(
        &self,
        xs: Rows<'_>,
        h: Option<&Buffer>,
        dys: Rows<'_>,
        dxs: Option<(&mut [f32], Init<'_>)>,
    ) -> candle_core::Result<Option<LoraGradients>> {
        if let (Some(lora), Some(h)) = (&self.layer.lora, h) {
            return lora.backward(&self.weight, self.mask.as_ref(), (xs, h), dys, dxs).map(Some);
        }
        if let Some(to) = dxs {
            self.weight.sum_backward(to, dys, None, None);
        }
        Ok(None)
    }
}
