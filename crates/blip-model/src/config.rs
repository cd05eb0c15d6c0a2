use std::collections::BTreeMap;
use std::path::Path;

use caption_model::{activation, read_json};
use serde::{Deserialize, Deserializer};
use train_ops::Activation;

use crate::{Result, schema};

/// `config.json` of a BLIP checkpoint. Defaults are those of transformers' `BlipConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct BlipConfig {
    /// `blip`; anything else is refused.
    pub model_type: String,
    /// Class that wrote the checkpoint: `BlipForConditionalGeneration` (the default) or
    /// `BlipForQuestionAnswering`.
    pub architectures: Option<Vec<String>>,
    /// The text decoder, and the question encoder if there is one.
    pub text_config: TextConfig,
    /// The vision encoder.
    pub vision_config: VisionConfig,
    /// Whether the word embedding and the LM head share their weight; `text_config` has this option too.
    pub tie_word_embeddings: bool,
}

impl Default for BlipConfig {
    fn default() -> Self {
        Self {
            model_type: "blip".to_owned(),
            architectures: None,
            text_config: TextConfig::default(),
            vision_config: VisionConfig::default(),
            tie_word_embeddings: true,
        }
    }
}

/// The task of a BLIP checkpoint, which decides the parts of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlipTask {
    /// Captions: [`BlipForConditionalGeneration`](crate::BlipForConditionalGeneration).
    Captions,
    /// Answers to questions: [`BlipForQuestionAnswering`](crate::BlipForQuestionAnswering).
    Questions,
}

impl BlipTask {
    /// transformers' class, as in `architectures` of a configuration.
    pub fn class(self) -> &'static str {
        match self {
            Self::Captions => "BlipForConditionalGeneration",
            Self::Questions => "BlipForQuestionAnswering",
        }
    }
}

/// `text_config`: a BERT decoder with cross-attention.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the decoder.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of each layer, in self-attention and in cross-attention.
    pub num_attention_heads: usize,
    /// Rows of the position embedding: the largest number of text tokens in one sequence.
    pub max_position_embeddings: usize,
    /// `gelu` or `quick_gelu`.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Added to the variance in the layer norms.
    pub layer_norm_eps: f64,
    /// Dropout probability after the embeddings and after the last dense layer of each block.
    pub hidden_dropout_prob: f32,
    /// Dropout probability of attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// `[DEC]`, the first token of every caption.
    pub bos_token_id: u32,
    /// `[SEP]`, which ends a caption.
    pub sep_token_id: u32,
    /// Must be true: a decoder has cross-attention.
    pub is_decoder: bool,
    /// Whether the word embedding and the LM head share their weight.
    pub tie_word_embeddings: bool,
    /// Share of each target that the loss spreads over the vocabulary.
    pub label_smoothing: f32,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30_524,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 512,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            bos_token_id: 30_522,
            sep_token_id: 102,
            is_decoder: true,
            tie_word_embeddings: true,
            label_smoothing: 0.0,
        }
    }
}

/// `vision_config`: a vision transformer.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width of the encoder.
    pub hidden_size: usize,
    /// Width of its feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of each layer.
    pub num_attention_heads: usize,
    /// Height and width of a picture in pixels.
    #[serde(deserialize_with = "square")]
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    #[serde(deserialize_with = "square")]
    pub patch_size: usize,
    /// `gelu` or `quick_gelu`.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Added to the variance in the layer norms.
    pub layer_norm_eps: f64,
    /// Dropout probability of attention probabilities.
    pub attention_dropout: f32,
}

impl Default for VisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 384,
            patch_size: 16,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
        }
    }
}

impl VisionConfig {
    /// Number of tokens of a picture: its patches and the class token.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

impl BlipConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, is not JSON of this form, or describes a model that this crate does not implement.
    pub fn read(path: &Path) -> Result<Self> {
        let config: Self = read_json(path)?;
        config.check(path)?;
        Ok(config)
    }

    /// Name and shape of every tensor of a checkpoint with this configuration, without a tied head.
    pub fn tensor_shapes(&self) -> BTreeMap<String, Vec<usize>> {
        schema::tensors(self).shapes().clone()
    }

    /// Whether the LM head shares the word embedding's weight. As in transformers, either configuration can ask for it.
    pub fn ties(&self) -> bool {
        self.tie_word_embeddings || self.text_config.tie_word_embeddings
    }

    /// The task that the model was trained for, by `architectures`.
    pub fn task(&self) -> BlipTask {
        match self.architectures.as_deref() {
            Some([class, ..]) if class == BlipTask::Questions.class() => BlipTask::Questions,
            _ => BlipTask::Captions,
        }
    }

    /// `[ENC]`, the first token of every question. BLIP adds `[DEC]` and then `[ENC]` to BERT's vocabulary; no configuration
    /// names it.
    pub fn question_token(&self) -> u32 {
        self.text_config.bos_token_id.saturating_add(1)
    }

    /// The configuration with another dropout in the text model, if one is given.
    pub(crate) fn with_dropout(&self, hidden_dropout: Option<f32>) -> Self {
        let mut config = self.clone();
        if let Some(p) = hidden_dropout {
            config.text_config.hidden_dropout_prob = p;
            config.text_config.attention_probs_dropout_prob = p;
        }
        config
    }

    /// The label smoothing of a loss: the given one, or the configuration's if that is 0, as in transformers.
    pub(crate) fn smoothing(&self, given: f32) -> f32 {
        if given == 0.0 { self.text_config.label_smoothing } else { given }
    }
}

/// Accepts `384` and `[384, 384]`.
fn square<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size must be a number of pixels, or height and width, which are equal")]
    enum Size {
        Edge(usize),
        Edges([usize; 2]),
    }
    match Size::deserialize(deserializer)? {
        Size::Edge(edge) => Ok(edge),
        Size::Edges([height, width]) if height == width => Ok(height),
        Size::Edges(edges) => Err(serde::de::Error::custom(format!(
            "{edges:?}: height and width differ, and only squares are supported"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use caption_model::CaptionConfig as _;

    use super::*;

    fn read(text: &str) -> Result<BlipConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        BlipConfig::read(&path)
    }

    #[test]
    fn an_empty_configuration_is_that_of_transformers() {
        let config = read("{}").unwrap();
        // BLIP's checkpoints have 12 heads; transformers' default is 8.
        assert_eq!((config.text_config.num_attention_heads, config.vision_config.tokens()), (8, 577));
        assert_eq!(config.tokens().start_token, 30_522);
        assert!(config.ties());
        assert_eq!(
            read(r#"{"vision_config": {"image_size": [32, 32]}}"#).unwrap().vision_config.image_size,
            32
        );
    }
}
