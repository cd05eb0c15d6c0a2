use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use train_ops::LayerBuilder;

use crate::{
    CaptionConfig, CaptionModel, CheckpointTensors, GenerationDefaults, LoadOptions, ModelTokens, Result,
};

/// The properties of a kind of model that an application needs to adapt it: the paths of its parts and its
/// usual targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Beginning of the paths of all layers and tensors of the vision encoder; all others belong to the text decoder.
    pub vision_prefix: &'static str,
    /// Names of the linear layers in the text decoder that get adapters by default.
    pub text_targets: &'static [&'static str],
    /// Names of the linear layers in the vision encoder that get adapters by default.
    pub vision_targets: &'static [&'static str],
    /// Path of the layer that PEFT leaves out of `all-linear`, if it leaves one out.
    pub output_layer: Option<&'static str>,
    /// `task_type` of an adapter's configuration, if PEFT's wrapper of that type can call the model.
    pub task_type: Option<&'static str>,
    /// Whether captions begin with the model's start token instead of the tokenizer's.
    pub replaces_start_token: bool,
    /// Whether the model answers questions: each picture needs a prompt, in training and in generation.
    pub needs_prompt: bool,
}

/// An opened checkpoint of any kind of captioning model.
pub trait CaptionCheckpoint: Send + Sync {
    /// The kind of model.
    fn architecture(&self) -> &'static Architecture;

    /// The folder.
    fn dir(&self) -> &Path;

    /// The tensors, checked against the configuration.
    fn tensors(&self) -> &CheckpointTensors;

    /// The checkpoint's options for decoding.
    fn generation(&self) -> &GenerationDefaults;

    /// The configuration.
    fn caption_config(&self) -> &dyn CaptionConfig;

    /// The properties that prompts, captions and decoding options have to fit.
    fn tokens(&self) -> ModelTokens {
        self.caption_config().tokens()
    }

    /// Builds the model; `builder` decides whether layers are frozen, trainable or adapted.
    ///
    /// # Errors
    /// If a tensor cannot be read, or the builder refuses a layer.
    fn load_model(
        &self,
        builder: &mut dyn LayerBuilder,
        options: &LoadOptions,
    ) -> Result<Box<dyn CaptionModel>>;

    /// The name of every tensor of the model and the type that it is stored in. A tied head is left out.
    ///
    /// # Errors
    /// If a tensor is stored in a type that candle does not have.
    fn dtypes(&self) -> Result<BTreeMap<String, DType>> {
        self.tensors().dtypes()
    }
}
