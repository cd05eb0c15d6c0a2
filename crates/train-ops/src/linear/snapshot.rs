use std::sync::Arc;

use candle_core::Tensor;

use cpu_kernels::Rows;

use super::lora::PackedLora;
use super::{AdaptedLinear, FrozenLinear, PackedWeight, check_input, with_last_dim};
use crate::{Error, ForwardContext, LinearLayer, Result, host};

/// A copy of the current state of `layer`, for many forward passes without a graph, as in decoding: an adapter
/// is packed once and not in every pass. The layer itself if it is neither frozen nor adapted, or if its
/// adapter is not in host memory.
///
/// A copy of trained parameters differs from that of a later pass, because an optimizer changes parameters in place. So the entered
/// pass then [has the values](ForwardContext::has_values_of) of no other pass.
///
/// # Errors
/// If the layer cannot be used in inference.
pub fn snapshot(layer: &Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>> {
    snapshot_with(layer, Ok)
}

/// A [`snapshot`] with the frozen weight in int8, multiplied by activations that are quantised too
/// ([`FrozenLinear::to_int8_products`]): nearly the same layer, with a quarter of the memory and a quarter of
/// the instructions. The layer itself if it is neither frozen nor adapted.
///
/// # Errors
/// As [`snapshot`] and [`FrozenLinear::to_int8_products`].
pub fn int8_snapshot(layer: &Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>> {
    snapshot_with(layer, |layer| Ok(AdaptedLinear { base: layer.base.to_int8_products()?, ..layer }))
}

fn snapshot_with(
    layer: &Arc<dyn LinearLayer>,
    change: fn(AdaptedLinear) -> Result<AdaptedLinear>,
) -> Result<Arc<dyn LinearLayer>> {
    let Some(adapted) = layer.for_snapshot()? else { return Ok(Arc::clone(layer)) };
    let AdaptedLinear { base, lora } = change(adapted)?;
    let copy: Arc<dyn LinearLayer> = match (lora, base.packed()) {
        (None, _) => Arc::new(base),
        (Some(lora), Some(weight)) => {
            let lora = lora.pack(&weight)?;
            Arc::new(Snapshot { base, weight, lora })
        }
        (Some(_), None) => return Ok(Arc::clone(layer)),
    };
    if !layer.parameters().is_empty() {
        ForwardContext::inference().held.hold_copies();
    }
    Ok(copy)
}

/// A frozen layer and a copy of its adapter.
#[derive(Debug)]
struct Snapshot {
    base: FrozenLinear,
    weight: Arc<PackedWeight>,
    lora: PackedLora,
}

impl LinearLayer for Snapshot {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        check_input(self.base.path(), xs, self.base.in_features())?;
        if ctx.is_training() || !host::is_host_f32(xs) {
            return Err(Error::Snapshot { path: self.base.path().to_owned() });
        }
        let shape = with_last_dim(xs.shape(), self.base.out_features());
        let xs = xs.contiguous()?;
        let view = xs.storage_and_layout();
        let rows = Rows::new(host::values(&view)?, self.base.in_features());
        let mut ys = vec![0.0; shape.elem_count()];
        self.lora.forward(&self.base, &self.weight, None, (rows, &self.weight.input(rows)), &mut ys)?;
        Ok(Tensor::from_vec(ys, shape, xs.device())?)
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}
