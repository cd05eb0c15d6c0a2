use std::path::{Path, PathBuf};

use caption_model::{
    Architecture, CaptionCheckpoint, CaptionConfig, CaptionModel, CheckpointTensors, read_json,
};
use serde_json::{Map, Value};
use train_ops::LayerBuilder;

use crate::{
    BlipConfig, BlipForConditionalGeneration, BlipForQuestionAnswering, BlipTask, Error, GenerationDefaults,
    LoadOptions, Result, schema,
};

/// The paths of BLIP's parts, and the layers that usually get adapters.
///
/// PEFT's wrapper for `CAUSAL_LM` passes an argument that BLIP refuses, so its adapters have no task type.
/// transformers does not define BLIP's output layer, so `all-linear` adapts it.
pub const BLIP: Architecture = Architecture {
    model_type: "blip",
    vision_prefix: "vision_model.",
    text_targets: &["query", "key", "value", "dense"],
    vision_targets: &["qkv", "projection", "fc1", "fc2"],
    output_layer: None,
    task_type: None,
    replaces_start_token: true,
    needs_prompt: false,
};

/// As [`BLIP`], for questions: the question encoder belongs to the text decoder's part.
pub const BLIP_QUESTIONS: Architecture = Architecture { needs_prompt: true, ..BLIP };

/// A BLIP checkpoint for captions or for questions in the Hugging Face layout: a folder with `config.json` and the weights.
///
/// Opening it checks every name and shape. Tensors are read when a model is built.
pub struct Checkpoint {
    config: BlipConfig,
    generation: GenerationDefaults,
    tensors: CheckpointTensors,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the configuration is not that of BLIP for captions or questions, or the weights are not exactly
    /// the ones that it describes: the error lists all missing, unexpected and misshapen tensors.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("config.json");
        if !path.is_file() {
            return Err(Error::Missing { dir: dir.to_owned(), wanted: "config.json" });
        }
        let config = BlipConfig::read(&path)?;
        let generation = generation(&config, path)?;
        let tensors = CheckpointTensors::open(dir, schema::tensors(&config))?;
        Ok(Self { config, generation, tensors })
    }

    /// The configuration.
    pub fn config(&self) -> &BlipConfig {
        &self.config
    }

    /// Refuses a checkpoint for another task.
    pub(crate) fn expect(&self, task: BlipTask) -> Result<()> {
        if self.config.task() == task {
            return Ok(());
        }
        Err(Error::Unsupported {
            path: self.tensors.dir().join("config.json"),
            field: "architectures",
            got: format!("{:?}", self.config.task().class()),
            supported: format!("{:?}", task.class()),
        })
    }
}

/// The checkpoint's options for decoding. BLIP's `generate` is that of its text decoder: it reads `text_config`
/// instead of `generation_config.json`, and always ends captions with `[SEP]`.
fn generation(config: &BlipConfig, path: PathBuf) -> Result<GenerationDefaults> {
    let mut whole: Map<String, Value> = read_json(&path)?;
    let mut text = match whole.remove("text_config") {
        Some(Value::Object(text)) => text,
        _ => Map::new(),
    };
    text.insert("bos_token_id".to_owned(), config.text_config.bos_token_id.into());
    text.insert("eos_token_id".to_owned(), config.text_config.sep_token_id.into());
    let positions = config.text_config.max_position_embeddings;
    Ok(GenerationDefaults::of_object(&path, text)?.with_positions(positions))
}

impl CaptionCheckpoint for Checkpoint {
    fn architecture(&self) -> &'static Architecture {
        match self.config.task() {
            BlipTask::Captions => &BLIP,
            BlipTask::Questions => &BLIP_QUESTIONS,
        }
    }

    fn dir(&self) -> &Path {
        self.tensors.dir()
    }

    fn tensors(&self) -> &CheckpointTensors {
        &self.tensors
    }

    fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    fn caption_config(&self) -> &dyn CaptionConfig {
        &self.config
    }

    fn load_model(
        &self,
        builder: &mut dyn LayerBuilder,
        options: &LoadOptions,
    ) -> Result<Box<dyn CaptionModel>> {
        Ok(match self.config.task() {
            BlipTask::Captions => Box::new(BlipForConditionalGeneration::load_with(self, builder, options)?),
            BlipTask::Questions => Box::new(BlipForQuestionAnswering::load_with(self, builder, options)?),
        })
    }
}
