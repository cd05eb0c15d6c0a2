use std::path::Path;

use caption_model::{Architecture, CaptionCheckpoint, CaptionConfig, CaptionModel, CheckpointTensors};
use train_ops::LayerBuilder;

use crate::{Error, GenerationDefaults, GitConfig, GitForCausalLm, LoadOptions, Result, schema};

/// The paths of GIT's parts, and the layers that usually get adapters.
pub const GIT: Architecture = Architecture {
    model_type: "git",
    vision_prefix: "git.image_encoder.",
    text_targets: &["query", "key", "value", "dense"],
    vision_targets: &["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    output_layer: Some("output"),
    task_type: Some("CAUSAL_LM"),
    replaces_start_token: false,
    needs_prompt: false,
};

/// A GIT checkpoint in the Hugging Face layout: a folder with `config.json` and the weights.
///
/// Opening it checks every name and shape. Tensors are read when a model is built.
pub struct Checkpoint {
    config: GitConfig,
    generation: GenerationDefaults,
    tensors: CheckpointTensors,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the configuration is not GIT's, or the weights are not exactly the ones that it
    /// describes: the error lists all missing, unexpected and misshapen tensors.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::Missing { dir: dir.to_owned(), wanted: "config.json" });
        }
        let mut config = GitConfig::read(&config_path)?;
        let generation = GenerationDefaults::read(dir)?.with_positions(config.max_position_embeddings);
        config.bos_token_id = generation.bos_token_id.unwrap_or(config.bos_token_id);
        if let Some(eos) = &generation.eos_token_id {
            config.eos_token_id.clone_from(eos);
        }
        let tensors = CheckpointTensors::open(dir, schema::tensors(&config))?;
        Ok(Self { config, generation, tensors })
    }

    /// The configuration. Its begin and end tokens are those of `generation_config.json` if that file has them.
    pub fn config(&self) -> &GitConfig {
        &self.config
    }
}

impl CaptionCheckpoint for Checkpoint {
    fn architecture(&self) -> &'static Architecture {
        &GIT
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
        Ok(Box::new(GitForCausalLm::load_with(self, builder, options)?))
    }
}
