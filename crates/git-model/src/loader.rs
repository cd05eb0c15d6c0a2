use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use train_ops::{LayerBuilder, LayerNorm, LinearLayer, TrainableLinear};

use crate::schema::{LM_HEAD, WORD_EMBEDDINGS};
use crate::words::WordEmbedding;
use crate::{Checkpoint, Result};

/// Builds layers from a checkpoint's tensors by a layer builder.
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
    pub(crate) fn words_and_head(&mut self) -> Result<(WordEmbedding, Arc<dyn LinearLayer>)> {
        // A tied weight has the head's dtype and is one tensor, which builders recognise and count once.
        let dtype = if self.checkpoint.tied() { self.dtype } else { DType::F32 };
        let stored = self.checkpoint.tensor(WORD_EMBEDDINGS, dtype, self.device)?;
        let words = self.builder.parameter(WORD_EMBEDDINGS, stored.clone())?;
        let head = self.head(&words)?;
        // If the builder returned the same tensor, the embedding can stay in its file.
        let unchanged = words.id() == stored.id() && !words.track_op() && self.device.is_cpu();
        let in_file = if unchanged { self.checkpoint.rows(WORD_EMBEDDINGS)? } else { None };
        Ok((in_file.map_or(WordEmbedding::Table(words), WordEmbedding::File), head))
    }

    fn head(&mut self, words: &Tensor) -> Result<Arc<dyn LinearLayer>> {
        if !self.checkpoint.tied() {
            return self.linear(LM_HEAD);
        }
        let bias = format!("{LM_HEAD}.bias");
        if words.track_op() {
            // One variable in two layers; a builder would make a second one.
            let bias = self.parameter(&bias)?;
            return Ok(Arc::new(TrainableLinear::new(LM_HEAD, words.clone(), Some(bias))?));
        }
        let bias = self.checkpoint.tensor(&bias, DType::F32, self.device)?;
        Ok(self.builder.linear(LM_HEAD, words.to_dtype(self.dtype)?, Some(bias))?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use train_ops::{FrozenBuilder, TrainableBuilder};

    use super::*;
    use crate::schema;

    /// Whether the word embedding of a small checkpoint stays in its file.
    fn in_file(tied: bool, builder: &mut dyn LayerBuilder) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            r#"{{"vocab_size": 11, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "max_position_embeddings": 6, "tie_word_embeddings": {tied}, "vision_config":
            {{"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 4, "patch_size": 2}}}}"#
        );
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        let tensors: HashMap<String, Tensor> = schema::tensors(&serde_json::from_str(&config).unwrap())
            .into_iter()
            .map(|(name, shape)| (name, Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()))
            .collect();
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.tied(), tied);
        let mut loader = Loader {
            checkpoint: &checkpoint,
            builder,
            dtype: DType::F32,
            device: &Device::Cpu,
            gradient_checkpointing: false,
        };
        let (words, head) = loader.words_and_head().unwrap();
        assert_eq!((head.in_features(), head.out_features()), (4, 11));
        matches!(words, WordEmbedding::File(_))
    }

    #[test]
    fn a_word_embedding_stays_in_its_file_unless_it_is_trained() {
        for tied in [false, true] {
            assert!(in_file(tied, &mut FrozenBuilder));
            assert!(!in_file(tied, &mut TrainableBuilder::new()));
        }
    }
}
