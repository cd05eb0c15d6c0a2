use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use train_ops::{LayerBuilder, LayerNorm, LinearLayer, TrainableLinear};

use crate::words::Words;
use crate::{CheckpointTensors, Result, WordEmbedding};

/// How a model is built from a checkpoint.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Device of the tensors. Default: the CPU.
    pub device: Device,
    /// Type of the linear layers' weights, including a tied head: f32 or bf16. All other tensors are f32.
    /// Default: f32.
    pub dtype: DType,
    /// Replaces the configuration's `hidden_dropout_prob` and `attention_probs_dropout_prob`. Default: `None`.
    pub hidden_dropout: Option<f32>,
    /// Stores only the input of each layer in training, and computes the layer again in the backward pass
    /// ([`recompute`](train_ops::recompute)). The gradients are the same; it takes less memory and more time.
    /// Default: off.
    pub gradient_checkpointing: bool,
    /// Records decoding steps as CUDA graphs on an NVIDIA GPU, where the build has kernels that can be recorded. A step is then one call
    /// of the driver; captions are the same. Default: off.
    ///
    /// While a step is recorded, in [`generate`](crate::CaptionModel::generate), no other thread may use the device, for this model or
    /// another: a device has one stream, and what other threads queue on it would be recorded too, and not computed. Leave graphs off,
    /// or open the GPU once for each thread, where several threads compute.
    pub decoding_graphs: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            hidden_dropout: None,
            gradient_checkpointing: false,
            decoding_graphs: false,
        }
    }
}

/// Builds layers from a checkpoint's tensors with a layer builder.
pub struct Loader<'a> {
    tensors: &'a CheckpointTensors,
    builder: &'a mut dyn LayerBuilder,
    options: &'a LoadOptions,
}

impl<'a> Loader<'a> {
    /// A loader of the layers of one model.
    pub fn new(
        tensors: &'a CheckpointTensors,
        builder: &'a mut dyn LayerBuilder,
        options: &'a LoadOptions,
    ) -> Self {
        Self { tensors, builder, options }
    }

    /// Whether trained layers save only their input.
    pub fn gradient_checkpointing(&self) -> bool {
        self.options.gradient_checkpointing
    }

    /// The linear layer at `path`.
    ///
    /// # Errors
    /// If a tensor cannot be read or the builder refuses the layer.
    pub fn linear(&mut self, path: &str) -> Result<Arc<dyn LinearLayer>> {
        self.linear_with(path, &format!("{path}.bias"))
    }

    fn linear_with(&mut self, path: &str, bias: &str) -> Result<Arc<dyn LinearLayer>> {
        let (dtype, device) = (self.options.dtype, &self.options.device);
        let weight = self.tensors.tensor(&format!("{path}.weight"), dtype, device)?;
        let bias = self.tensors.tensor(bias, DType::F32, device)?;
        Ok(self.builder.linear(path, weight, Some(bias))?)
    }

    /// The parameter called `name`, which belongs to no linear layer.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn parameter(&mut self, name: &str) -> Result<Tensor> {
        let value = self.tensors.tensor(name, DType::F32, &self.options.device)?;
        Ok(self.builder.parameter(name, value)?)
    }

    /// The layer norm at `path`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn layer_norm(&mut self, path: &str, eps: f64) -> Result<LayerNorm> {
        let weight = self.parameter(&format!("{path}.weight"))?;
        let bias = self.parameter(&format!("{path}.bias"))?;
        Ok(LayerNorm::new(path, weight, bias, eps)?)
    }

    /// The word embedding called `name`, which shares its weight with no other layer.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn word_embedding(&mut self, name: &str) -> Result<WordEmbedding> {
        let stored = self.tensors.tensor(name, DType::F32, &self.options.device)?;
        let words = self.builder.parameter(name, stored.clone())?;
        self.words(name, &stored, words)
    }

    /// The word embedding called `name`. The builder made the tensor `words` from `stored`.
    fn words(&self, name: &str, stored: &Tensor, words: Tensor) -> Result<WordEmbedding> {
        // If the builder returned the same tensor, the embedding can stay in its file.
        let unchanged = words.id() == stored.id() && !words.track_op() && self.options.device.is_cpu();
        let in_file = if unchanged { self.tensors.rows(name)? } else { None };
        Ok(WordEmbedding(in_file.map_or(Words::Table(words), Words::File)))
    }

    /// The word embedding and the LM head, which may share a weight.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn words_and_head(&mut self) -> Result<(WordEmbedding, Arc<dyn LinearLayer>)> {
        // A tied weight has the head's dtype and is one tensor, which builders recognise and count once.
        let dtype = if self.tensors.tied() { self.options.dtype } else { DType::F32 };
        let name = &self.tensors.schema().words;
        let stored = self.tensors.tensor(name, dtype, &self.options.device)?;
        let words = self.builder.parameter(name, stored.clone())?;
        let head = self.head(&words)?;
        Ok((self.words(name, &stored, words)?, head))
    }

    fn head(&mut self, words: &Tensor) -> Result<Arc<dyn LinearLayer>> {
        let (path, bias) = (&self.tensors.schema().head, &self.tensors.schema().head_bias);
        if !self.tensors.tied() {
            return self.linear_with(path, bias);
        }
        if words.track_op() {
            // One variable in two layers; a builder would make a second one.
            let bias = self.parameter(bias)?;
            return Ok(Arc::new(TrainableLinear::new(path, words.clone(), Some(bias))?));
        }
        let bias = self.tensors.tensor(bias, DType::F32, &self.options.device)?;
        Ok(self.builder.linear(path, words.to_dtype(self.options.dtype)?, Some(bias))?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use train_ops::{FrozenBuilder, TrainableBuilder};

    use super::*;
    use crate::TensorSchema;

    /// Whether the word embedding of a small checkpoint stays in its file.
    fn in_file(tied: bool, builder: &mut dyn LayerBuilder) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let schema = TensorSchema::new("words.weight", "head", "head.bias", [11, 4], tied);
        let tensors: HashMap<String, Tensor> = schema
            .shapes()
            .iter()
            .map(|(name, shape)| (name.clone(), Tensor::ones(&shape[..], DType::F32, &Device::Cpu).unwrap()))
            .collect();
        candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
        let tensors = CheckpointTensors::open(folder.path(), schema).unwrap();
        assert_eq!(tensors.tied(), tied);
        let options = LoadOptions::default();
        let (words, head) = Loader::new(&tensors, builder, &options).words_and_head().unwrap();
        assert_eq!((head.in_features(), head.out_features()), (4, 11));
        matches!(words.0, Words::File(_))
    }

    #[test]
    fn a_word_embedding_stays_in_its_file_unless_it_is_trained() {
        for tied in [false, true] {
            assert!(in_file(tied, &mut FrozenBuilder));
            assert!(!in_file(tied, &mut TrainableBuilder::new()));
        }
    }
}
