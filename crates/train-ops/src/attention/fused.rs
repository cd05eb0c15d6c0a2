//! Self-attention over a fused projection, whose rows hold query, key and value side by side.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};
use cpu_kernels::Buffer;
use rayon::prelude::*;

use super::{AttentionMask, AttentionRows, Sizes, attention};
use crate::{Dropout, Error, ForwardContext, Result, host};

/// [`attention`] of tokens among themselves, from `qkv` of shape `(batch, tokens, 3 * heads * head_dim)`: the queries of all
/// heads, then the keys, then the values, as vision transformers with one `qkv` layer compute them. The result has shape
/// `(batch, tokens, heads * head_dim)`.
///
/// # Errors
/// If the last dimension of `qkv` is not a multiple of `3 * heads`, or a dimension is 0.
pub fn fused_attention(
    qkv: &Tensor,
    heads: usize,
    mask: AttentionMask,
    dropout: &Dropout,
    ctx: &ForwardContext,
) -> Result<Tensor> {
    let (batch, tokens, features) = qkv.dims3()?;
    if heads == 0 || tokens == 0 || features == 0 || !features.is_multiple_of(3 * heads) {
        return Err(Error::Shape {
            path: "attention's qkv".to_owned(),
            expected: format!("(batch, tokens, a multiple of 3 * {heads} heads), none of them 0"),
            got: qkv.dims().to_vec(),
        });
    }
    let width = features / 3;
    if !host::is_host_f32(qkv) {
        let part = |index: usize| qkv.narrow(2, index * width, width)?.contiguous();
        return attention(&part(0)?, &part(1)?, &part(2)?, heads, mask, dropout, ctx);
    }
    let sizes = Sizes { batch, queries: tokens, keys: tokens, heads, head_dim: width / heads };
    let operation = FusedAttention {
        rows: AttentionRows::new(sizes, mask, None, dropout, ctx)?,
        width,
        keep: qkv.track_op(),
        probabilities: OnceLock::new(),
    };
    Ok(qkv.contiguous()?.apply_op1(operation)?)
}

struct FusedAttention {
    rows: AttentionRows,
    /// Features of a query, a key or a value.
    width: usize,
    /// Whether a backward pass may follow.
    keep: bool,
    probabilities: OnceLock<Buffer>,
}

impl CustomOp1 for FusedAttention {
    fn name(&self) -> &'static str {
        "fused_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, tokens, _) = layout.shape().dims3()?;
        let [q, k, v] = split(host::slice(qkv, layout)?, self.width);
        let mut context = vec![0.0; q.len()];
        if let Some(probabilities) = self.rows.forward([&q, &k, &v], &mut context, self.keep) {
            let _ = self.probabilities.set(probabilities);
        }
        Ok((CpuStorage::F32(context), Shape::from((batch, tokens, self.width))))
    }

    /// Splits `qkv` again instead of saving its parts: this takes little time and saves memory.
    fn bwd(&self, qkv: &Tensor, _context: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Some(probabilities) = self.probabilities.get() else {
            bail!("fused_attention: backward before forward")
        };
        let grad = grad.contiguous()?;
        let (qkv_view, grad_view) = (qkv.storage_and_layout(), grad.storage_and_layout());
        let [q, k, v] = split(host::values(&qkv_view)?, self.width);
        let [mut dq, mut dk, mut dv] = [q.len(); 3].map(Buffer::new);
        let dcontext = host::values(&grad_view)?;
        self.rows.backward([&q, &k, &v], probabilities, dcontext, [&mut dq, &mut dk, &mut dv]);
        let mut dqkv = vec![0.0; qkv.elem_count()];
        dqkv.par_chunks_exact_mut(3 * self.width).with_min_len(ROWS).enumerate().for_each(|(row, to)| {
            for (to, from) in to.chunks_exact_mut(self.width).zip([&dq, &dk, &dv]) {
                to.copy_from_slice(&from[row * self.width..][..self.width]);
            }
        });
        Tensor::from_vec(dqkv, qkv.shape(), qkv.device()).map(Some)
    }
}

/// The least number of rows that a task copies.
const ROWS: usize = 16;

/// Queries, keys and values of rows that hold all three.
fn split(qkv: &[f32], width: usize) -> [Buffer; 3] {
    [0, 1, 2].map(|index| {
        let mut part = Buffer::new(qkv.len() / 3);
        part.par_chunks_exact_mut(width)
            .zip(qkv.par_chunks_exact(3 * width))
            .with_min_len(ROWS)
            .for_each(|(to, from)| to.copy_from_slice(&from[index * width..][..width]));
        part
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn it_is_attention_of_the_three_parts_in_value_and_gradient() {
        let (batch, tokens, heads, width) = (2, 21, 3, 15);
        let values = |seed: f32, count: usize| {
            (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0).collect::<Vec<f32>>()
        };
        let qkv = values(0.1, batch * tokens * 3 * width);
        let qkv = Var::from_vec(qkv, (batch, tokens, 3 * width), &Device::Cpu).unwrap();
        let weights = values(0.2, batch * tokens * width);
        let weights = Tensor::from_vec(weights, (batch, tokens, width), &Device::Cpu).unwrap();
        for p in [0.0, 0.3] {
            let dropout = Dropout::new("probabilities", p).unwrap();
            let ctx = ForwardContext::training([1, 2]);
            let part = |index: usize| qkv.narrow(2, index * width, width).unwrap().contiguous().unwrap();
            let parts = [0, 1, 2].map(part);
            let full = AttentionMask::Full;
            let apart = attention(&parts[0], &parts[1], &parts[2], heads, full, &dropout, &ctx).unwrap();
            let fused = fused_attention(&qkv, heads, full, &dropout, &ctx).unwrap();
            let list = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let gradient = |context: &Tensor| {
                let gradients = (context * &weights).unwrap().sum_all().unwrap().backward().unwrap();
                list(gradients.get(&qkv).unwrap())
            };
            assert_eq!(list(&fused), list(&apart));
            assert_eq!(gradient(&fused), gradient(&apart));
        }
        assert!(
            fused_attention(
                &qkv,
                4,
                AttentionMask::Full,
                &Dropout::new("", 0.0).unwrap(),
                &ForwardContext::inference()
            )
            .is_err()
        );
    }
}
