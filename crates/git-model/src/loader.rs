use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use train_ops::{FrozenLinear, LayerBuilder, LayerNorm, LinearLayer, TrainableLinear};

use crate::schema::{LM_HEAD, WORD_EMBEDDINGS};
use crate::{Checkpoint, Result};

/// Hands a checkpoint's tensors to a layer builder.
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) builder: &'a mut dyn LayerBuilder,
    pub(crate) dtype: DType,
    pub(crate) device: &'a Device,
    pub(crate) gradient_checkpointing: bool,
}

impl Loader<'_> {
    pub(crate) fn linear(&mut self, path: &str) -> Result<Arc<dyn LinearLayer>> {
        let weight = self.checkpoint.tensor(&format!("{path}.weight"), self.dtype, self.device)?;
        let bias = self.checkpoint.tensor(&format!("{path}.bias"), DType::F32, self.device)?;
        Ok(self.builder.linear(path, weight, Some(bias))?)
    }

    pub(crate) fn parameter(&mut self, path: &str) -> Result<Tensor> {
        let value = self.checkpoint.tensor(path, DType::F32, self.device)?;
        Ok(self.builder.parameter(path, value)?)
    }

    pub(crate) fn layer_norm(&mut self, path: &str, eps: f64) -> Result<LayerNorm> {
        let weight = self.parameter(&format!("{path}.weight"))?;
        let bias = self.parameter(&format!("{path}.bias"))?;
        Ok(LayerNorm::new(path, weight, bias, eps)?)
    }

    /// The word embedding and the LM head, which may share a weight.
    pub(crate) fn words_and_head(&mut self) -> Result<(Tensor, Arc<dyn LinearLayer>)> {
        let words = self.parameter(WORD_EMBEDDINGS)?;
        if !self.checkpoint.tied() {
            return Ok((words, self.linear(LM_HEAD)?));
        }
        let bias = self.parameter(&format!("{LM_HEAD}.bias"))?;
        let head: Arc<dyn LinearLayer> = if words.track_op() {
            Arc::new(TrainableLinear::new(LM_HEAD, words.clone(), Some(bias))?)
        } else {
            Arc::new(FrozenLinear::new(LM_HEAD, words.clone(), Some(bias))?)
        };
        Ok((words, head))
    }
}
