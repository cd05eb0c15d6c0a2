//! The mathematics of a linear layer with a low-rank adapter (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>):
//!
//! ```text
//! forward     h = drop(x) Aᵀ       y = x Wᵀ + b + s h Bᵀ
//! backward    dB = s dyᵀ h         dh = s dy B
//!             dA = dhᵀ drop(x)     dx = dy W + dropᵀ(dh A)
//! ```
//!
//! where `dropᵀ` multiplies by the mask of `drop`. The formulas are implemented twice: on rows of host memory
//! for the kernels, and on tensors for other devices and types. Neither `dW` nor the full-size `B A` is ever
//! computed.

use candle_core::{Result, Tensor};
use cpu_kernels::{Buffer, DropoutMask, Init, Operand, PackedMatrix, Rows, Term, at_b, product};
use rayon::prelude::*;

use super::{FrozenLinear, LayerInput, PackedWeight};
use crate::{Dropout, Error, LoraWeights, host};

/// An adapter of one layer.
#[derive(Clone, Debug)]
pub(super) struct Lora {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
    rank: usize,
    scale: f64,
    pub(super) dropout: Dropout,
}

/// Gradients of an adapter's `A` and `B`.
pub(crate) type LoraGradients = [Vec<f32>; 2];

impl Lora {
    /// Checks that the shapes of `A` and `B` are `(r, in_features)` and `(out_features, r)` with an `r` of at least 1.
    pub(super) fn new(base: &FrozenLinear, weights: LoraWeights<'_>) -> crate::Result<Self> {
        let rank = weights.a.dims().first().copied().unwrap_or(0).max(1);
        for (name, tensor, expected) in [
            ("lora_A", weights.a, [rank, base.in_features]),
            ("lora_B", weights.b, [base.out_features, rank]),
        ] {
            if tensor.dims() != expected {
                return Err(Error::Shape {
                    path: format!("{}.{name}.weight", base.path()),
                    expected: format!("({}, {})", expected[0], expected[1]),
                    got: tensor.dims().to_vec(),
                });
            }
        }
        Ok(Self {
            a: weights.a.contiguous()?,
            b: weights.b.contiguous()?,
            rank,
            scale: weights.scale,
            dropout: weights.dropout.clone(),
        })
    }

    /// `A` and `B` packed for the forward pass, with the scale multiplied into `B`.
    pub(super) fn pack(&self, weight: &PackedWeight) -> Result<PackedLora> {
        let (isa, rank) = (weight.forward.isa(), self.rank);
        let (a_view, b_view) = (self.a.storage_and_layout(), self.b.storage_and_layout());
        let (a, b) = (host::values(&a_view)?, host::values(&b_view)?);
        Ok(PackedLora {
            a: PackedMatrix::from_columns(isa, weight.forward.k(), rank, a, 1.0),
            b: PackedMatrix::from_columns(isa, rank, weight.forward.n(), b, self.scale as f32),
        })
    }

    /// The backward pass on rows, with the `h` of the forward pass: `dA` and `dB`, and `dx` where it is wanted, on top of its
    /// [`Init`].
    pub(super) fn backward(
        &self,
        weight: &PackedWeight,
        mask: Option<&DropoutMask>,
        (xs, h): (Rows<'_>, &Buffer),
        dys: Rows<'_>,
        dxs: Option<(&mut [f32], Init<'_>)>,
    ) -> Result<LoraGradients> {
        let (rows, rank, isa) = (xs.count(), self.rank, weight.forward.isa());
        let (in_features, out_features) = (weight.forward.k(), weight.forward.n());
        let (a_view, b_view) = (self.a.storage_and_layout(), self.b.storage_and_layout());
        let (a, b) = (host::values(&a_view)?, host::values(&b_view)?);
        let scale = self.scale as f32;

        // Both computations read `dys`, and neither of them alone keeps two threads busy until its end.
        let (grad_b, (bits, plain_dys, dh)) = rayon::join(
            // dB = s dyᵀ h, computed as (hᵀ dy)ᵀ.
            || transposed(&at_b(isa, (h, rank), dys, None), out_features, rank, scale),
            || {
                let bits = mask.map(|mask| mask.bits(rows));
                // dh = s dy B, times the scale of the kept elements, once for both products below.
                let kept_scale = scale * mask.map_or(1.0, DropoutMask::scale);
                let b = PackedMatrix::from_rows(isa, out_features, rank, b, kept_scale);
                let plain_dys = Operand::new(dys, &b);
                let mut dh = Buffer::new(rows * rank);
                product(&mut dh, rank, Init::Zero, &[Term::new(&plain_dys, &b)]);
                (bits, plain_dys, dh)
            },
        );
        // dx = dy W + dropᵀ(dh A).
        let backward_xs = || {
            let Some(to) = dxs else { return };
            let a = PackedMatrix::from_rows(isa, rank, in_features, a, 1.0);
            let dh = Operand::plain(Rows::new(&dh, rank));
            let through_a = Term { product_mask: bits.as_ref(), ..Term::new(&dh, &a) };
            weight.sum_backward(to, dys, Some(&plain_dys), Some(through_a));
        };
        // dA = dhᵀ drop(x).
        let (grad_a, ()) = rayon::join(|| at_b(isa, (&dh, rank), xs, bits.as_ref()), backward_xs);
        Ok([grad_a, grad_b])
    }

    /// `drop(x)` and `h` on tensors, for rows `(rows, in_features)` and the factors of their mask.
    fn hidden(&self, xs: &Tensor, factors: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let xs = xs.to_dtype(self.a.dtype())?;
        let dropped = factors.map_or(Ok(xs.clone()), |factors| &xs * factors)?;
        let h = dropped.matmul(&self.a.detach().t()?)?;
        Ok((dropped, h))
    }

    /// The forward pass on tensors: `y`, from `(rows, in_features)` to `(rows, out_features)`.
    pub(super) fn forward_tensor(
        &self,
        base: &FrozenLinear,
        xs: &Tensor,
        factors: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (_, h) = self.hidden(xs, factors)?;
        let delta = (h.matmul(&self.b.detach().t()?)? * self.scale)?;
        base.forward_tensor(xs)? + delta.to_dtype(xs.dtype())?
    }

    /// The backward pass on tensors, which computes `h` again: `dx`, `dA` and `dB`, those that are needed.
    pub(super) fn backward_tensor(
        &self,
        base: &FrozenLinear,
        xs: &Tensor,
        factors: Option<&Tensor>,
        dys: &Tensor,
        [of_xs, of_a, of_b]: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let (dropped, h) = self.hidden(xs, factors)?;
        let scaled_dys = (dys.to_dtype(self.a.dtype())? * self.scale)?;
        let dh = scaled_dys.matmul(&self.b.detach())?;
        let dxs = of_xs.then(|| {
            let through_a = dh.matmul(&self.a.detach())?;
            let through_a = factors.map_or(Ok(through_a.clone()), |factors| &through_a * factors)?;
            base.backward_tensor(dys)? + through_a.to_dtype(dys.dtype())?
        });
        let grad_a = of_a.then(|| dh.t()?.matmul(&dropped));
        let grad_b = of_b.then(|| scaled_dys.t()?.matmul(&h));
        Ok([dxs.transpose()?, grad_a.transpose()?, grad_b.transpose()?])
    }
}

/// An adapter's matrices packed for the forward pass: `Aᵀ` and `s Bᵀ`.
#[derive(Debug)]
pub(super) struct PackedLora {
    a: PackedMatrix,
    b: PackedMatrix,
}

impl PackedLora {
    /// The forward pass on rows, to `ys`. `input` has the rows converted for the layer's weight. Returns `h`.
    pub(super) fn forward(
        &self,
        base: &FrozenLinear,
        weight: &PackedWeight,
        mask: Option<&DropoutMask>,
        (xs, input): (Rows<'_>, &LayerInput<'_>),
        ys: &mut [f32],
    ) -> Result<Buffer> {
        let rank = self.a.n();
        let own;
        let for_a = match (mask, input) {
            (None, LayerInput::Float(operand)) if operand.fits(&self.a) => operand,
            (None, _) => {
                own = Operand::new(xs, &self.a);
                &own
            }
            // Masked rows have to be copied in any case, a few at a time.
            (Some(_), _) => {
                own = Operand::plain(xs);
                &own
            }
        };
        let mut h = Buffer::new(xs.count() * rank);
        product(&mut h, rank, Init::Zero, &[Term { a_mask: mask, ..Term::new(for_a, &self.a) }]);
        let for_b = Operand::plain(Rows::new(&h, rank));
        base.sum(ys, weight, input, Some(Term::new(&for_b, &self.b)))?;
        Ok(h)
    }
}

/// Rows of a gradient that are transposed by a task.
const TRANSPOSED_ROWS: usize = 128;

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
