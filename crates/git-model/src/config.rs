use std::collections::BTreeMap;
use std::path::Path;

use caption_model::{activation, check_heads, read_json, token_ids};
use serde::Deserialize;
use train_ops::Activation;

use crate::{Error, Result, schema};

/// `config.json` of a GIT checkpoint. Defaults are those of transformers' `GitConfig`: the base model.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct GitConfig {
    /// `git`; anything else is refused.
    pub model_type: String,
    /// The vision encoder.
    pub vision_config: VisionConfig,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the decoder.
    pub hidden_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads of each decoder layer.
    pub num_attention_heads: usize,
    /// Width of the decoder's feed-forward layers.
    pub intermediate_size: usize,
    /// One of those that [`Activation::from_name`] knows.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Dropout probability after the embeddings and after the last dense layer of each block.
    pub hidden_dropout_prob: f32,
    /// Dropout probability of attention probabilities.
    pub attention_probs_dropout_prob: f32,
    /// Rows of the text position embedding: the largest number of text tokens in one sequence.
    pub max_position_embeddings: usize,
    /// Added to the variance in the decoder's layer norms.
    pub layer_norm_eps: f64,
    /// Whether the word embedding and the LM head share their weight.
    pub tie_word_embeddings: bool,
    /// Start token of every caption.
    pub bos_token_id: u32,
    /// Tokens that end a caption. If empty (`null` in the file), captions end at their maximum length.
    #[serde(deserialize_with = "token_ids")]
    pub eos_token_id: Vec<u32>,
    /// Number of video frames that have a temporal embedding; `None` for models of single pictures.
    pub num_image_with_embedding: Option<usize>,
}

impl Default for GitConfig {
    fn default() -> Self {
        Self {
            model_type: "git".to_owned(),
            vision_config: VisionConfig::default(),
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 6,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 1024,
            layer_norm_eps: 1e-12,
            tie_word_embeddings: false,
            bos_token_id: 101,
            eos_token_id: vec![102],
            num_image_with_embedding: None,
        }
    }
}

/// `vision_config`: the CLIP vision encoder.
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
    /// Colour channels.
    pub num_channels: usize,
    /// Height and width of a picture in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// One of those that [`Activation::from_name`] knows.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Added to the variance in the encoder's and the projection's layer norms.
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
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            attention_dropout: 0.0,
        }
    }
}

impl VisionConfig {
    /// Number of tokens of one picture: its patches and the class token.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }
}

impl GitConfig {
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

    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |field: &'static str, got: String, supported: &str| {
            Err(Error::Unsupported { path: path.to_owned(), field, got, supported: supported.to_owned() })
        };
        if self.model_type != "git" {
            return refuse("model_type", format!("{:?}", self.model_type), "\"git\"");
        }
        let vision = &self.vision_config;
        for (field, width, heads) in [
            ("num_attention_heads", self.hidden_size, self.num_attention_heads),
            ("vision_config.num_attention_heads", vision.hidden_size, vision.num_attention_heads),
        ] {
            check_heads(path, field, heads, width)?;
        }
        if vision.patch_size == 0 || vision.image_size < vision.patch_size {
            let supported = format!("1 to the image_size, {},", vision.image_size);
            return refuse("vision_config.patch_size", vision.patch_size.to_string(), &supported);
        }
        if self.num_hidden_layers == 0 {
            return refuse("num_hidden_layers", "0".to_owned(), "1 or more");
        }
        Ok(())
    }
}
