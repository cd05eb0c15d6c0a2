use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::snapshot::Snapshot;
use super::{FrozenLinear, LoraWeights, Packed};
use crate::buffer::Buffer;
use crate::dropout::Mask;
use crate::kernels::{Operand, PackedMatrix, Precision, Rows, Start, Term, outer_sum, product};
use crate::{Dropout, Error, LinearLayer, Pass, Result, host, on_pool};

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
    /// If the shapes of `A` and `B` are not `(r, in_features)` and `(out_features, r)` with an `r` of at least 1.
    pub fn new(base: &FrozenLinear, lora: Option<LoraWeights<'_>>) -> Result<Self> {
        let lora = lora.map(|lora| {
            let rank = lora.a.dims().first().copied().unwrap_or(0).max(1);
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

    /// The layer as it is now, for many forward passes without a graph: its adapter is packed once and not in every pass.
    /// `None` for one with an adapter that is not in host memory.
    pub(super) fn snapshot(self) -> Result<Option<Arc<dyn LinearLayer>>> {
        let Some(lora) = &self.lora else { return Ok(Some(Arc::new(self.base))) };
        let Some(packed) = self.base.packed() else { return Ok(None) };
        let lora = lora.pack(&self.base, &packed)?;
        Ok(Some(Arc::new(Snapshot { base: self.base, packed, lora })))
    }

    /// The layer with its base in 8 bits.
    pub(super) fn into_int8(self) -> Self {
        Self { base: self.base.to_int8(), ..self }
    }

    /// The layer forward and backward on rows of host memory, as a [`TransformerLayer`](crate::TransformerLayer) runs it,
    /// without a graph: `ys` from `xs`, and from `dys` the gradient of `xs` to `dxs` and those of `A` and `B`. `xs` has
    /// the shape `dims`, `(samples * n, ..., in_features)`, whose first dimension is divided among the samples of the pass.
    ///
    /// # Errors
    /// If the weight is not in host memory, or a length is not that of its shape.
    pub fn forward_backward(
        &self,
        (xs, dims): (&[f32], &[usize]),
        ys: &mut [f32],
        dys: &[f32],
        dxs: &mut [f32],
        pass: &Pass,
    ) -> Result<Option<[Vec<f32>; 2]>> {
        let (n_in, n_out) = (self.base.in_features(), self.base.out_features());
        let rows = xs.len() / n_in.max(1);
        let lengths = [xs.len(), dxs.len(), ys.len(), dys.len()];
        let is_of_dims = dims.last() == Some(&n_in) && dims.iter().product::<usize>() == xs.len();
        let layer = self.on_rows(dims, pass)?.filter(|_| is_of_dims);
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
            let hidden = layer.forward(xs, &layer.operand(xs), ys)?;
            layer.backward(xs, hidden.as_ref(), dys, Some((dxs, Start::Zero)))
        })?)
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

impl Lora {
    /// `A` and `B` for the forward pass, the scale in `B`.
    fn pack(&self, base: &FrozenLinear, packed: &Packed) -> candle_core::Result<PackedLora> {
        let (isa, rank) = (packed.forward.isa(), self.rank);
        let (a_view, b_view) = (self.a.storage_and_layout(), self.b.storage_and_layout());
        let (a, b) = (host::values(&a_view)?, host::values(&b_view)?);
        Ok(PackedLora {
            a: PackedMatrix::from_columns(isa, base.in_features(), rank, a, 1.0),
            b: PackedMatrix::from_columns(isa, rank, base.out_features(), b, self.scale),
        })
    }
}

/// An adapter's matrices as products read them: `Aᵀ` and `s Bᵀ`.
#[derive(Debug)]
pub(super) struct PackedLora {
    a: PackedMatrix,
    b: PackedMatrix,
}

impl PackedLora {
    /// Computes `ys`, what goes through the base and `s (mask ∘ xs) Aᵀ Bᵀ`. Returns `h = (mask ∘ xs) Aᵀ`.
    pub(super) fn add(
        &self,
        base: &FrozenLinear,
        through_base: Term<'_>,
        xs: Rows<'_>,
        mask: Option<&Mask>,
        ys: &mut [f32],
    ) -> candle_core::Result<Buffer> {
        let rank = self.a.n();
        let mut hidden = Buffer::new(xs.count() * rank);
        let own;
        let operand = match mask {
            None if through_base.a.fits(&self.a) => through_base.a,
            None => {
                own = Operand::new(xs, &self.a);
                &own
            }
            // Rows that get a mask are copied anyway, a few at a time.
            Some(_) => {
                own = Operand::plain(xs);
                &own
            }
        };
        product(&mut hidden, rank, Start::Zero, &[Term { a_mask: mask, ..Term::new(operand, &self.a) }]);
        let through_b = Operand::plain(Rows::new(&hidden, rank));
        base.sum(ys, &[through_base, Term::new(&through_b, &self.b)])?;
        Ok(hidden)
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
    pub(crate) fn operand<'a>(&self, xs: Rows<'a>) -> Operand<'a> {
        Operand::new(xs, &self.packed.forward)
    }

    /// Computes `ys` from `xs`, of which `operand` is [another form](Self::operand). Returns `h = drop(x) Aᵀ`, `(rows, r)`,
    /// for the backward pass of an adapter.
    pub(crate) fn forward(
        &self,
        xs: Rows<'_>,
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
        let packed = lora.pack(&self.layer.base, &self.packed)?;
        packed.add(&self.layer.base, through_base, xs, self.mask.as_ref(), ys).map(Some)
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
        xs: Rows<'_>,
        hidden: Option<&Buffer>,
        dys: Rows<'_>,
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
        let rows = xs.count();
        let isa = self.packed.forward.isa();

        // Both read `dys`, and neither keeps two threads busy to its end.
        let (grad_b, (kept, plain, grad_hidden)) = rayon::join(
            || {
                transposed(
                    &outer_sum(isa, (hidden, lora.rank), dys, None),
                    out_features,
                    lora.rank,
                    lora.scale,
                )
            },
            || {
                let kept = self.mask.as_ref().map(|mask| mask.kept(rows));
                // What is kept by the dropout is scaled here, once, for both products below.
                let scale = lora.scale * self.mask.as_ref().map_or(1.0, Mask::scale);
                let b = PackedMatrix::from_rows(isa, out_features, lora.rank, b, scale);
                let plain = Operand::new(dys, &b);
                let mut grad_hidden = Buffer::new(rows * lora.rank);
                product(&mut grad_hidden, lora.rank, Start::Zero, &[Term::new(&plain, &b)]);
                (kept, plain, grad_hidden)
            },
        );
        let through_dropout = || {
            let Some((dxs, start)) = dxs else { return };
            let a = PackedMatrix::from_rows(isa, lora.rank, in_features, a, 1.0);
            let backward = self.packed.backward();
            let converted;
            let operand = if backward.precision() == Precision::F32 {
                &plain
            } else {
                converted = Operand::new(dys, backward);
                &converted
            };
            let grad_hidden = Operand::plain(Rows::new(&grad_hidden, lora.rank));
            let through_a = Term { kept: kept.as_ref(), ..Term::new(&grad_hidden, &a) };
            product(dxs, in_features, start, &[Term::new(operand, backward), through_a]);
        };
        let (grad_a, ()) =
            rayon::join(|| outer_sum(isa, (&grad_hidden, lora.rank), xs, kept.as_ref()), through_dropout);
        Ok(Some([grad_a, grad_b]))
    }
}

/// `scale * sumsᵀ` for `sums` `(rank, features)`.
fn transposed(sums: &[f32], features: usize, rank: usize, scale: f32) -> Vec<f32> {
    let mut result = vec![0.0; features * rank];
    result.par_chunks_mut(TRANSPOSED_ROWS * rank.max(1)).enumerate().for_each(|(chunk, result)| {
        let first = chunk * TRANSPOSED_ROWS;
        for (column, sums) in sums.chunks_exact(features).enumerate() {
            for (to, sum) in result[column..].iter_mut().step_by(rank).zip(&sums[first..]) {
                *to = scale * sum;
            }
        }
    });
    result
}
