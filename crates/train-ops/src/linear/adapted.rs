use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{FrozenLinear, LoraWeights, Packed};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Operand, PackedMatrix, Precision, Start, Term, outer_sum, product};
use crate::{Dropout, Error, LinearLayer, Pass, Result, host};

/// A frozen linear layer, with a low-rank adapter or without: what an operation that spans several layers needs to know of
/// each. See [`LinearLayer::adapted`](crate::LinearLayer::adapted).
#[derive(Clone, Debug)]
pub struct AdaptedLinear {
    pub(crate) base: FrozenLinear,
    lora: Option<Lora>,
}

#[derive(Clone, Debug)]
struct Lora {
    a: Tensor,
    b: Tensor,
    rank: usize,
    scale: f32,
    dropout: Dropout,
}

impl AdaptedLinear {
    /// The layer `base` with the adapter `lora`.
    ///
    /// # Errors
    /// If the shapes of `A` and `B` are not `(r, in_features)` and `(out_features, r)`.
    pub fn new(base: &FrozenLinear, lora: Option<LoraWeights<'_>>) -> Result<Self> {
        let lora = lora.map(|lora| {
            let rank = lora.a.dims().first().copied().unwrap_or(0);
            for (name, tensor, expected) in [
                ("lora_A", lora.a, [rank, base.in_features()]),
                ("lora_B", lora.b, [base.out_features(), rank]),
            ] {
                if tensor.dims() != expected {
                    return Err(Error::Shape {
                        path: format!("{}.{name}.weight", base.path()),
                        expected: format!("({}, {})", expected[0], expected[1]),
                        got: tensor.dims().to_vec(),
                    });
                }
            }
            Ok(Lora {
                a: lora.a.contiguous()?,
                b: lora.b.contiguous()?,
                rank,
                scale: lora.scale as f32,
                dropout: lora.dropout.clone(),
            })
        });
        Ok(Self { base: base.clone(), lora: lora.transpose()? })
    }

    /// The adapter's `A` and `B`.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Tensor> {
        self.lora.iter().flat_map(|lora| [&lora.a, &lora.b])
    }

    /// The layer on rows of host memory in one pass, for an input of shape `dims`, if it is for the kernels there.
    pub(crate) fn on_rows(&self, dims: &[usize], pass: &Pass) -> Result<Option<RowLinear>> {
        let Some(packed) = self.base.packed() else { return Ok(None) };
        let mask = match &self.lora {
            Some(lora) => lora.dropout.mask(dims, pass)?,
            None => None,
        };
        Ok(Some(RowLinear { layer: self.clone(), packed, mask }))
    }
}

/// A linear layer in one pass, on rows of host memory: `y = x Wᵀ + b + s (drop(x) Aᵀ) Bᵀ`.
pub(crate) struct RowLinear {
    layer: AdaptedLinear,
    packed: Arc<Packed>,
    mask: Option<Mask>,
}

/// Rows of a gradient that are transposed at a time.
const TRANSPOSED_ROWS: usize = 128;

/// Gradients of an adapter's `A` and `B`.
pub(crate) type LoraGradients = [Vec<f32>; 2];

impl RowLinear {
    pub(crate) fn in_features(&self) -> usize {
        self.layer.base.in_features()
    }

    pub(crate) fn out_features(&self) -> usize {
        self.layer.base.out_features()
    }

    /// The rows of an input in the form that the layer multiplies: once for all layers of one precision.
    pub(crate) fn operand<'a>(&self, xs: &'a [f32]) -> Operand<'a> {
        Operand::new(xs, &self.packed.forward)
    }

    /// Computes `ys` from `xs`, of which `operand` is [another form](Self::operand). Returns `h = drop(x) Aᵀ`, `(rows, r)`,
    /// for the backward pass of an adapter.
    pub(crate) fn forward(
        &self,
        xs: &[f32],
        operand: &Operand<'_>,
        ys: &mut [f32],
    ) -> candle_core::Result<Option<Buffer>> {
        let own;
        let operand = if operand.fits(&self.packed.forward) {
            operand
        } else {
            own = self.operand(xs);
            &own
        };
        let through_base = Term::new(operand, &self.packed.forward);
        let Some(lora) = &self.layer.lora else {
            self.layer.base.sum(ys, &[through_base])?;
            return Ok(None);
        };
        let (in_features, out_features) = (self.in_features(), self.out_features());
        let (a_view, b_view) = (lora.a.storage_and_layout(), lora.b.storage_and_layout());
        let (a, b) = (host::values(&a_view)?, host::values(&b_view)?);
        let mut hidden = Buffer::new(xs.len() / in_features * lora.rank);
        let isa = self.packed.forward.isa();
        let a = PackedMatrix::from_columns(isa, in_features, lora.rank, a, 1.0);
        let xs = Operand::new(xs, &a);
        let through_a = Term { a_mask: self.mask.as_ref(), ..Term::new(&xs, &a) };
        product(&mut hidden, lora.rank, Start::Zero, &[through_a]);

        let b = PackedMatrix::from_columns(isa, lora.rank, out_features, b, lora.scale);
        let through_b = Operand::plain(&hidden, lora.rank);
        self.layer.base.sum(ys, &[through_base, Term::new(&through_b, &b)])?;
        Ok(Some(hidden))
    }

    /// From the gradient of `ys`, with `h` kept from the forward pass:
    ///
    /// ```text
    /// dB = s dyᵀ h        dh = s dy B        dA = dhᵀ drop(x)        dx = dy W + dropᵀ(dh A)
    /// ```
    ///
    /// `dx` is computed where there is a place for it, on top of what `start` says. Neither `dW` nor the full-size `B A` is
    /// ever formed.
    pub(crate) fn backward(
        &self,
        xs: &[f32],
        hidden: Option<&Buffer>,
        dys: &[f32],
        dxs: Option<(&mut [f32], Start<'_>)>,
    ) -> candle_core::Result<Option<LoraGradients>> {
        let (in_features, out_features) = (self.in_features(), self.out_features());
        let (Some(lora), Some(hidden)) = (&self.layer.lora, hidden) else {
            if let Some((dxs, start)) = dxs {
                let backward = self.packed.backward();
                product(dxs, in_features, start, &[Term::new(&Operand::new(dys, backward), backward)]);
            }
            return Ok(None);
        };
        let (a_view, b_view) = (lora.a.storage_and_layout(), lora.b.storage_and_layout());
        let (a, b) = (host::values(&a_view)?, host::values(&b_view)?);
        let rows = xs.len() / in_features;
        let isa = self.packed.forward.isa();

        let transposed = outer_sum(isa, hidden, dys, rows, None);
        let mut grad_b = vec![0.0; out_features * lora.rank];
        grad_b.par_chunks_mut(TRANSPOSED_ROWS * lora.rank.max(1)).enumerate().for_each(|(chunk, grads)| {
            let first = chunk * TRANSPOSED_ROWS;
            for (column, sums) in transposed.chunks_exact(out_features).enumerate() {
                for (grad, sum) in grads[column..].iter_mut().step_by(lora.rank).zip(&sums[first..]) {
                    *grad = lora.scale * sum;
                }
            }
        });

        let b = PackedMatrix::from_rows(isa, out_features, lora.rank, b, lora.scale);
        let mut grad_hidden = Buffer::new(rows * lora.rank);
        let plain = Operand::new(dys, &b);
        product(&mut grad_hidden, lora.rank, Start::Zero, &[Term::new(&plain, &b)]);
        let grad_a = outer_sum(isa, &grad_hidden, xs, rows, self.mask.as_ref());

        if let Some((dxs, start)) = dxs {
            let a = PackedMatrix::from_rows(isa, lora.rank, in_features, a, 1.0);
            let backward = self.packed.backward();
            let converted;
            let operand = if backward.precision() == Precision::F32 {
                &plain
            } else {
                converted = Operand::new(dys, backward);
                &converted
            };
            let grad_hidden = Operand::plain(&grad_hidden, lora.rank);
            let through_a = Term { mask: self.mask.as_ref(), ..Term::new(&grad_hidden, &a) };
            product(dxs, in_features, start, &[Term::new(operand, backward), through_a]);
        }
        Ok(Some([grad_a, grad_b]))
    }
}
