use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Shape, Tensor, bail};

use super::TransformerLayer;
use super::rows::{LayerRows, Saved};
use crate::grad_proxy::{GradProxies, GradSink};
use crate::{AdaptedLinear, AttentionMask, ForwardContext, Result, host, on_pool};

impl TransformerLayer {
    /// The layer as one operation; `None` if it has to be composed.
    pub(super) fn as_operation(
        &self,
        hidden_states: &Tensor,
        mask: AttentionMask,
        ctx: &ForwardContext,
    ) -> Result<Option<Tensor>> {
        let Some((rows, adapted)) = self.on_rows(hidden_states, mask, ctx)? else { return Ok(None) };
        let parameters: Vec<Tensor> = match ctx.is_training() {
            true => adapted.iter().flat_map(AdaptedLinear::parameters).cloned().collect(),
            false => Vec::new(),
        };
        let proxies = GradProxies::new(&parameters, hidden_states.device())?;
        let differentiable = hidden_states.track_op() || proxies.argument.track_op();
        let operation = LayerOp {
            keep: differentiable && !self.recompute,
            rows,
            parameters,
            sink: proxies.sink(),
            saved: Mutex::new(None),
        };
        Ok(Some(hidden_states.contiguous()?.apply_op2(&proxies.argument, operation)?))
    }

    /// [`forward_with_keys`](Self::forward_with_keys) as one operation; `None` if it has to be composed.
    pub(super) fn as_operation_with_keys(
        &self,
        hidden_states: &Tensor,
        mask: AttentionMask,
    ) -> Result<Option<[Tensor; 3]>> {
        let Some((rows, _)) = self.on_rows(hidden_states, mask, &ForwardContext::inference())? else {
            return Ok(None);
        };
        let hidden_states = hidden_states.contiguous()?;
        let view = hidden_states.storage_and_layout();
        let xs = host::values(&view)?;
        let shape = Shape::from(rows.output_dims());
        let mut ys = vec![0.0; shape.elem_count()];
        let Some(saved) = on_pool(|| rows.forward(xs, &mut ys, true))? else { return Ok(None) };
        let tensor = |values: &[f32]| Tensor::from_slice(values, hidden_states.shape(), &Device::Cpu);
        let (keys, values) = (tensor(&saved.attention.keys)?, tensor(&saved.attention.values)?);
        Ok(Some([Tensor::from_vec(ys, shape, &Device::Cpu)?, keys, values]))
    }

    /// The layer on rows of host memory and its linear layers; `None` if it cannot run there.
    fn on_rows(
        &self,
        hidden_states: &Tensor,
        mask: AttentionMask,
        ctx: &ForwardContext,
    ) -> Result<Option<(LayerRows, Vec<AdaptedLinear>)>> {
        if !self.fits_rows(hidden_states, mask.first_query(), ctx) {
            return Ok(None);
        }
        let adapted = self.linear_layers().into_iter().map(|layer| layer.adapted(ctx));
        let Some(adapted) = adapted.collect::<Result<Option<Vec<AdaptedLinear>>>>()? else { return Ok(None) };
        let rows = LayerRows::new(self, &adapted, hidden_states.dims(), (mask, None), ctx)?;
        Ok(rows.map(|rows| (rows, adapted)))
    }
}

struct LayerOp {
    rows: LayerRows,
    /// The adapters' matrices, in the order of the linear layers.
    parameters: Vec<Tensor>,
    sink: GradSink,
    /// Whether the forward pass saves its activations; if not, the backward pass runs it again.
    keep: bool,
    saved: Mutex<Option<Saved>>,
}

impl CustomOp2 for LayerOp {
    fn name(&self) -> &'static str {
        "transformer_layer"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        _proxies: &CpuStorage,
        _proxies_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = host::slice(xs, xs_layout)?;
        let shape = Shape::from(self.rows.output_dims());
        let mut ys = vec![0.0; shape.elem_count()];
        let saved = on_pool(|| self.rows.forward(xs, &mut ys, self.keep))?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        Ok((CpuStorage::F32(ys), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        proxies: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (xs_view, grad_view) = (xs.storage_and_layout(), grad.storage_and_layout());
        let (x, dys) = (host::values(&xs_view)?, host::values(&grad_view)?);
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let saved = match saved {
            Some(saved) => Some(saved),
            None if self.keep => bail!("transformer_layer: a second backward pass, or one before forward"),
            None => on_pool(|| self.rows.forward(x, &mut vec![0.0; ys.elem_count()], true))?,
        };
        let Some(saved) = saved else { bail!("transformer_layer: no activations were saved") };
        let mut dxs = xs.track_op().then(|| vec![0.0; x.len()]);
        let gradients = on_pool(|| self.rows.backward(x, saved, dys, dxs.as_deref_mut()))?;
        let gradients = gradients
            .into_iter()
            .zip(&self.parameters)
            .map(|(values, parameter)| Tensor::from_vec(values, parameter.shape(), &Device::Cpu).map(Some));
        let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
        let dxs = dxs.map(|dxs| Tensor::from_vec(dxs, xs.shape(), xs.device())).transpose()?;
        Ok((dxs, self.sink.deliver(gradients, proxies)?))
    }
}
