use std::sync::Arc;

use candle_core::Tensor;

use cpu_kernels::Rows;

use super::lora::PackedLora;
use super::{AdaptedLinear, FrozenLinear, PackedWeight, check_input, with_last_dim};
use crate::{Error, ForwardContext, LinearLayer, Result, host};

/// A copy of `layer` as it is now, for many forward passes without a graph, as in decoding: an adapter is packed once and not
/// in every pass. The layer itself if it is neither frozen nor adapted, or if its adapter is not in host memory.
///
/// # Errors
/// If the layer cannot be used in inference.
pub fn snapshot(layer: &Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>> {
    snapshot_with(layer, Ok)
}

/// A [`snapshot`] with the frozen weight in int8 ([`FrozenLinear::to_int8`]): nearly the same layer, from a quarter of the
/// memory. The layer itself if it is neither frozen nor adapted.
///
/// # Errors
/// As [`snapshot`] and [`FrozenLinear::to_int8`].
pub fn int8_snapshot(layer: &Arc<dyn LinearLayer>) -> Result<Arc<dyn LinearLayer>> {
    snapshot_with(layer, |layer| Ok(AdaptedLinear { base: layer.base.to_int8()?, ..layer }))
}

fn snapshot_with(
    layer: &Arc<dyn LinearLayer>,
    change: fn(AdaptedLinear) -> Result<AdaptedLinear>,
) -> Result<Arc<dyn LinearLayer>> {
    let Some(adapted) = layer.for_snapshot()? else { return Ok(Arc::clone(layer)) };
    let AdaptedLinear { base, lora } = change(adapted)?;
    Ok(match (lora, base.packed()) {
        (None, _) => Arc::new(base),
        (Some(lora), Some(weight)) => {
            let lora = lora.pack(&weight)?;
            Arc::new(Snapshot { base, weight, lora })
        }
        (Some(_), None) => Arc::clone(layer),
    })
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::{Dropout, LoraWeights, lora_linear, sample_key};

    fn values(seed: u64, shape: (usize, usize)) -> Tensor {
        let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let values: Vec<f32> = (0..(shape.0 * shape.1) as u64).map(value).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// A layer that hands out its base and its adapter.
    #[derive(Clone, Debug)]
    struct Adapted {
        base: FrozenLinear,
        a: Tensor,
        b: Tensor,
        dropout: Dropout,
    }

    impl Adapted {
        fn lora(&self) -> LoraWeights<'_> {
            LoraWeights { a: &self.a, b: &self.b, scale: 2.0, dropout: &self.dropout }
        }
    }

    impl LinearLayer for Adapted {
        fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
            lora_linear(xs, &self.base, self.lora(), ctx)
        }

        fn parameters(&self) -> Vec<Tensor> {
            vec![self.a.clone(), self.b.clone()]
        }

        fn in_features(&self) -> usize {
            self.base.in_features()
        }

        fn out_features(&self) -> usize {
            self.base.out_features()
        }

        fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
            AdaptedLinear::new(&self.base, Some(self.lora())).map(Some)
        }
    }

    #[test]
    fn snapshots_are_the_layer_and_the_layer_with_an_int8_weight() {
        let (k, n, rank, ctx) = (70, 40, 4, ForwardContext::inference());
        let base = FrozenLinear::new("layer", values(1, (n, k)), None).unwrap();
        let dropout = Dropout::new("layer", 0.5).unwrap();
        let layer = Adapted { base, a: values(2, (rank, k)), b: values(3, (n, rank)), dropout };
        let (xs, short) =
            (values(4, (3, k)), Adapted { base: layer.base.to_int8().unwrap(), ..layer.clone() });
        let rows = |layer: &dyn LinearLayer| layer.forward(&xs, &ctx).unwrap().to_vec2::<f32>().unwrap();
        let (exact, quantised) = (rows(&layer), rows(&short));
        assert_ne!(exact, quantised);
        let layer: Arc<dyn LinearLayer> = Arc::new(layer);
        assert_eq!(rows(snapshot(&layer).unwrap().as_ref()), exact);
        assert_eq!(rows(int8_snapshot(&layer).unwrap().as_ref()), quantised);
    }
}
