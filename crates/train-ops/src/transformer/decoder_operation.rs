//! A layer with cross-attention as one operation of the graph.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor, bail};
use cpu_kernels::Buffer;

use super::cross_rows::{CrossRows, SavedCross};
use super::rows::{LayerRows, SavedAttention, SavedMlp};
use super::{DecoderLayer, DecoderMasks};
use crate::attention::sizes::Sizes;
use crate::grad_proxy::{GradProxies, GradSink};
use crate::layer_norm::Statistics;
use crate::{AdaptedLinear, ForwardContext, Result, host, on_pool};

impl DecoderLayer {
    /// The layer as one operation; `None` if it has to be composed.
    pub(super) fn as_operation(
        &self,
        text: &Tensor,
        states: &Tensor,
        masks: &DecoderMasks,
        ctx: &ForwardContext,
    ) -> Result<Option<Tensor>> {
        if !self.fits_rows(text, states, ctx) {
            return Ok(None);
        }
        let linear = self.layer.linear_layers().into_iter().chain(self.cross.linear_layers());
        let adapted = linear.map(|layer| layer.adapted(ctx)).collect::<Result<Option<Vec<_>>>>()?;
        let Some(adapted) = adapted else { return Ok(None) };
        let Some(rows) = self.rows(&adapted, [text, states], masks, ctx)? else { return Ok(None) };
        let parameters: Vec<Tensor> = match ctx.is_training() {
            true => adapted.iter().flat_map(AdaptedLinear::parameters).cloned().collect(),
            false => Vec::new(),
        };
        let proxies = GradProxies::new(&parameters, text.device())?;
        let differentiable = text.track_op() || states.track_op() || proxies.argument.track_op();
        let operation = DecoderOp {
            keep: differentiable && !self.layer.recompute,
            rows,
            parameters,
            sink: proxies.sink(),
            saved: Mutex::new(None),
        };
        Ok(Some(text.contiguous()?.apply_op3(&states.contiguous()?, &proxies.argument, operation)?))
    }

    fn rows(
        &self,
        adapted: &[AdaptedLinear],
        [text, states]: [&Tensor; 2],
        masks: &DecoderMasks,
        ctx: &ForwardContext,
    ) -> Result<Option<DecoderRows>> {
        let (own, cross) = adapted.split_at(self.layer.linear_layers().len());
        let lengths = masks.text_lengths.as_ref();
        let layer = LayerRows::new(&self.layer, own, text.dims(), (masks.text(), lengths), ctx)?;
        let Some(layer) = layer else { return Ok(None) };
        let sizes = Sizes { keys: states.dim(1)?, ..layer.sizes };
        let cross = CrossRows::new(&self.cross, cross, sizes, masks.state_lengths.as_ref(), ctx)?;
        Ok(cross.map(|cross| DecoderRows { layer, cross }))
    }
}

/// A layer in one pass over one batch.
struct DecoderRows {
    /// Self-attention and MLP.
    layer: LayerRows,
    cross: CrossRows,
}

/// Activations that the forward pass saves for the backward pass.
struct SavedDecoder {
    attention: SavedAttention,
    probabilities: Buffer,
    /// `x + attention`, and its statistics.
    attended: (Buffer, Statistics),
    cross: SavedCross,
    mlp: SavedMlp,
}

impl DecoderRows {
    /// Computes `ys` from `xs` and the states, and returns the activations for the backward pass if `keep`.
    fn forward(
        &self,
        xs: &[f32],
        states: &[f32],
        ys: &mut [f32],
        keep: bool,
    ) -> candle_core::Result<Option<SavedDecoder>> {
        let (attention, probabilities, attended) = self.layer.forward_attention(xs, ys.len(), keep)?;
        let (attended, (normed, _)) = self.layer.forward_residual(xs, &attention, attended)?;
        let (cross, crossed) = self.cross.forward(normed, states, keep)?;
        // As norms come after the sums, the residual of the MLP is its input.
        let mlp = self.layer.forward_mlp(&[], (crossed, Statistics::new()), ys)?;
        Ok(probabilities.map(|probabilities| SavedDecoder { attention, probabilities, attended, cross, mlp }))
    }

    /// Computes, from the gradient of `ys`, those of `xs` and of the states, if they are wanted, and those of
    /// the adapters' `A` and `B`, layer by layer.
    fn backward(
        &self,
        [xs, states]: [&[f32]; 2],
        saved: SavedDecoder,
        dys: &[f32],
        [dxs, dstates]: [Option<&mut [f32]>; 2],
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let SavedDecoder { attention, probabilities, attended, cross, mlp } = saved;
        let [mut dresidual, mut dbranch, mut dattended] = [(); 3].map(|()| Buffer::new(dys.len()));
        let mlp = self.layer.backward_mlp(mlp, &[], dys, &mut dresidual, &mut dbranch)?;
        let cross = self.cross.backward(states, cross, &dresidual, &mut dattended, dstates)?;
        let (sums, statistics) = attended;
        let to = (&mut *dresidual, &mut *dbranch);
        let mask = self.layer.attention_mask.as_ref();
        self.layer.attention_norm.backward_residual_rows(&sums, &statistics, mask, &dattended, to)?;
        drop((sums, dattended));
        let attention =
            self.layer.backward_attention(xs, attention, probabilities, dbranch, dresidual, dxs)?;
        Ok(attention.into_iter().chain(mlp).chain(cross).flatten().flatten().collect())
    }
}

struct DecoderOp {
    rows: DecoderRows,
    /// The adapters' matrices, in the order of the linear layers.
    parameters: Vec<Tensor>,
    sink: GradSink,
    /// Whether the forward pass saves its activations; if not, the backward pass runs it again.
    keep: bool,
    saved: Mutex<Option<SavedDecoder>>,
}

impl CustomOp3 for DecoderOp {
    fn name(&self) -> &'static str {
        "decoder_layer"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        states: &CpuStorage,
        states_layout: &Layout,
        _proxies: &CpuStorage,
        _proxies_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (xs, states) = (host::slice(xs, xs_layout)?, host::slice(states, states_layout)?);
        let mut ys = vec![0.0; xs.len()];
        let saved = on_pool(|| self.rows.forward(xs, states, &mut ys, self.keep))?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = saved;
        Ok((CpuStorage::F32(ys), xs_layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        states: &Tensor,
        proxies: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (xs_view, states_view) = (xs.storage_and_layout(), states.storage_and_layout());
        let grad_view = grad.storage_and_layout();
        let (x, s) = (host::values(&xs_view)?, host::values(&states_view)?);
        let dys = host::values(&grad_view)?;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let saved = match saved {
            Some(saved) => Some(saved),
            None if self.keep => bail!("decoder_layer: a second backward pass, or one before forward"),
            None => on_pool(|| self.rows.forward(x, s, &mut vec![0.0; x.len()], true))?,
        };
        let Some(saved) = saved else { bail!("decoder_layer: no activations were saved") };
        let mut dxs = xs.track_op().then(|| vec![0.0; x.len()]);
        let mut dstates = states.track_op().then(|| vec![0.0; s.len()]);
        let wanted = [dxs.as_deref_mut(), dstates.as_deref_mut()];
        let gradients = on_pool(|| self.rows.backward([x, s], saved, dys, wanted))?;
        let gradients = gradients
            .into_iter()
            .zip(&self.parameters)
            .map(|(values, parameter)| Tensor::from_vec(values, parameter.shape(), &Device::Cpu).map(Some));
        let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
        let tensor = |values: Option<Vec<f32>>, like: &Tensor| {
            values.map(|values| Tensor::from_vec(values, like.shape(), like.device())).transpose()
        };
        Ok((tensor(dxs, xs)?, tensor(dstates, states)?, self.sink.deliver(gradients, proxies)?))
    }
}
