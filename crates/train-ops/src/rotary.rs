//! Rotary position embedding (Su et al., 2021, <https://arxiv.org/abs/2104.09864>).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::attached::attach;
use crate::{Error, Result, host};

/// How queries and keys are laid out, and which of a head's elements are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryLayout {
    /// `(batch, heads, tokens, head_dim)`; element `i` with element `i + head_dim / 2`, as in transformers.
    Halves,
    /// `(batch, heads, tokens, head_dim)`; element `2 i` with element `2 i + 1`, as in the paper.
    Interleaved,
    /// `(batch, tokens, heads, head_dim)`; element `i` with element `i + head_dim / 2`.
    HalvesOfTokens,
}

/// Rotates pairs of elements of each head by the angles of their position, differentiable in `xs`:
/// `(a, b)` becomes `(a cos - b sin, a sin + b cos)`.
///
/// `cos` and `sin` have shape `(positions, head_dim / 2)` or `(batch, positions, head_dim / 2)`, with at least
/// as many positions as tokens. They are constants. The gradient is rotated by the negative angles.
///
/// # Errors
/// If the shapes are not these.
pub fn rotary_embedding(xs: &Tensor, cos: &Tensor, sin: &Tensor, layout: RotaryLayout) -> Result<Tensor> {
    let sizes = Sizes::new(xs, cos, sin, layout)?;
    if host::is_host_f32(xs) && host::is_host_f32(cos) && host::is_host_f32(sin) {
        let op = RotaryOp { cos: cos.detach().contiguous()?, sin: sin.detach().contiguous()?, sizes };
        return Ok(xs.contiguous()?.apply_op1(op)?);
    }
    let angles = |angles: &Tensor| sizes.broadcast(&angles.detach().to_dtype(xs.dtype())?);
    let (cos, sin) = (angles(cos)?, angles(sin)?);
    let ys = composed(&xs.detach(), &cos, &sin, layout)?;
    Ok(attach("rotary_embedding", xs, ys, move |dys| composed(dys, &cos, &sin.neg()?, layout))?)
}

/// The rotation composed of candle's operations; angles as [`Sizes::broadcast`] returns them.
fn composed(xs: &Tensor, cos: &Tensor, sin: &Tensor, layout: RotaryLayout) -> candle_core::Result<Tensor> {
    let (pairs, of_pair) = match layout {
        RotaryLayout::Interleaved => (xs.reshape(split(xs.dims(), [xs.dim(D::Minus1)? / 2, 2]))?, 4),
        _ => (xs.reshape(split(xs.dims(), [2, xs.dim(D::Minus1)? / 2]))?, 3),
    };
    let (a, b) = (pairs.narrow(of_pair, 0, 1)?, pairs.narrow(of_pair, 1, 1)?);
    let (cos, sin) = (cos.unsqueeze(of_pair)?, sin.unsqueeze(of_pair)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::cat(&[first, second], of_pair)?.reshape(xs.shape())
}

/// `dims` with the last dimension split in two.
fn split(dims: &[usize], last: [usize; 2]) -> Vec<usize> {
    [&dims[..dims.len() - 1], &last[..]].concat()
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    head_dim: usize,
    /// Positions for which there are angles.
    positions: usize,
    /// Whether each sequence of the batch has its own angles.
    batched: bool,
    layout: RotaryLayout,
}

impl Sizes {
    fn new(xs: &Tensor, cos: &Tensor, sin: &Tensor, layout: RotaryLayout) -> Result<Self> {
        let error = |argument: &str, expected: String, got: &Tensor| Error::Shape {
            path: format!("{argument} of rotary_embedding"),
            expected,
            got: got.dims().to_vec(),
        };
        let &[batch, second, third, head_dim] = xs.dims() else {
            return Err(error("input", "four dimensions".to_owned(), xs));
        };
        let (heads, tokens) = match layout {
            RotaryLayout::HalvesOfTokens => (third, second),
            _ => (second, third),
        };
        if head_dim % 2 != 0 || xs.elem_count() == 0 {
            return Err(error("input", "an even head_dim and no empty dimension".to_owned(), xs));
        }
        let half = head_dim / 2;
        let (positions, batched) = match *cos.dims() {
            [positions, width] if width == half && positions >= tokens => (positions, false),
            [of, positions, width] if of == batch && width == half && positions >= tokens => {
                (positions, true)
            }
            _ => {
                let expected = format!("({tokens} or more, {half}) or ({batch}, {tokens} or more, {half})");
                return Err(error("cos", expected, cos));
            }
        };
        if cos.dims() != sin.dims() {
            return Err(error("sin", format!("the shape of cos, {:?}", cos.dims()), sin));
        }
        Ok(Self { batch, heads, tokens, head_dim, positions, batched, layout })
    }

    /// Angles as `(batch or 1, heads, tokens, half)` or `(batch or 1, tokens, heads, half)`, with 1 for the heads.
    fn broadcast(&self, angles: &Tensor) -> Result<Tensor> {
        let half = self.head_dim / 2;
        let batch = if self.batched { self.batch } else { 1 };
        let angles = angles.reshape((batch, self.positions, half))?.narrow(1, 0, self.tokens)?;
        Ok(match self.layout {
            RotaryLayout::HalvesOfTokens => angles.unsqueeze(2)?,
            _ => angles.unsqueeze(1)?,
        })
    }

    /// Where the angles of row number `row` of the input begin.
    fn angles_of(&self, row: usize) -> usize {
        let sequence = row / (self.heads * self.tokens);
        let token = match self.layout {
            RotaryLayout::HalvesOfTokens => row / self.heads % self.tokens,
            _ => row % self.tokens,
        };
        let first = if self.batched { sequence * self.positions } else { 0 };
        (first + token) * (self.head_dim / 2)
    }

    /// Rotates all rows by the angles, or by the negative angles if `sign` is -1.
    fn rotate(&self, xs: &[f32], cos: &[f32], sin: &[f32], sign: f32) -> Vec<f32> {
        let (half, mut ys) = (self.head_dim / 2, vec![0.0; xs.len()]);
        let size = ROWS * self.head_dim;
        (ys.par_chunks_mut(size), xs.par_chunks(size)).into_par_iter().enumerate().for_each(
            |(task, (ys, xs))| {
                let rows = ys.chunks_exact_mut(self.head_dim).zip(xs.chunks_exact(self.head_dim));
                for (row, (ys, xs)) in rows.enumerate() {
                    let first = self.angles_of(task * ROWS + row);
                    let angles = cos[first..first + half].iter().zip(&sin[first..first + half]);
                    if self.layout == RotaryLayout::Interleaved {
                        for ((y, x), (cos, sin)) in ys.chunks_exact_mut(2).zip(xs.chunks_exact(2)).zip(angles)
                        {
                            [y[0], y[1]] = rotated([x[0], x[1]], *cos, sign * sin);
                        }
                    } else {
                        let (first, second) = ys.split_at_mut(half);
                        let pairs = first.iter_mut().zip(second).zip(xs[..half].iter().zip(&xs[half..]));
                        for (((first, second), (a, b)), (cos, sin)) in pairs.zip(angles) {
                            [*first, *second] = rotated([*a, *b], *cos, sign * sin);
                        }
                    }
                }
            },
        );
        ys
    }
}

/// Rows of a task.
const ROWS: usize = 64;

#[inline(always)]
fn rotated([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
}

struct RotaryOp {
    cos: Tensor,
    sin: Tensor,
    sizes: Sizes,
}

impl RotaryOp {
    fn rotate(&self, xs: &[f32], sign: f32) -> candle_core::Result<Vec<f32>> {
        let (cos, sin) = (self.cos.storage_and_layout(), self.sin.storage_and_layout());
        Ok(self.sizes.rotate(xs, host::values(&cos)?, host::values(&sin)?, sign))
    }
}

impl CustomOp1 for RotaryOp {
    fn name(&self) -> &'static str {
        "rotary_embedding"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.rotate(host::slice(storage, layout)?, 1.0)?), layout.shape().clone()))
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dxs = self.rotate(host::values(&grad.storage_and_layout())?, -1.0)?;
        Tensor::from_vec(dxs, xs.shape(), xs.device()).map(Some)
    }
}
