use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::schema::{self, LM_HEAD, WORD_EMBEDDINGS};
use crate::weights::Weights;
use crate::words::FileRows;
use crate::{Error, GitConfig, Result};

/// A GIT checkpoint in the Hugging Face layout: a folder with `config.json` and the weights.
///
/// Opening it maps the weights into memory and checks every name and shape; tensors are read when a model is built.
pub struct Checkpoint {
    dir: PathBuf,
    config: GitConfig,
    weights: Weights,
    tied: bool,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the configuration is not one of GIT's, or the weights are not exactly those
    /// that it describes: all missing, unexpected and misshapen tensors are listed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::Missing { dir, wanted: "config.json" });
        }
        let config = GitConfig::read(&config_path)?;
        let weights = Weights::open(&dir)?;
        let mut checkpoint = Self { dir, tied: config.tie_word_embeddings, config, weights };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The configuration.
    pub fn config(&self) -> &GitConfig {
        &self.config
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the LM head shares the word embedding's weight.
    pub fn tied(&self) -> bool {
        self.tied
    }

    /// The tensor called `name`, converted to `dtype`.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let older = name.replace("img_temporal_embedding", "img_temperal_embedding");
        for name in [name, &older] {
            if let Some(tensor) = self.weights.tensor(name, dtype, device)? {
                return Ok(tensor);
            }
        }
        // A tied head may be stored under either name.
        if self.tied && name == WORD_EMBEDDINGS {
            return self.tensor(&format!("{LM_HEAD}.weight"), dtype, device);
        }
        Err(self.mismatch(vec![format!("{name} is missing")]))
    }

    /// The rows of the matrix called `name`, to be read from the file; `None` if the file is not a safetensors file.
    pub(crate) fn rows(&self, name: &str) -> Result<Option<FileRows>> {
        match self.weights.rows(name)? {
            None if self.tied && name == WORD_EMBEDDINGS => self.weights.rows(&format!("{LM_HEAD}.weight")),
            rows => Ok(rows),
        }
    }

    fn mismatch(&self, problems: Vec<String>) -> Error {
        Error::Tensors { path: self.dir.clone(), problems }
    }

    /// Compares the file's tensors with those that the configuration asks for.
    fn check(&mut self) -> Result<()> {
        let mut expected = schema::tensors(&self.config);
        let found = self.weights.shapes();
        let head = format!("{LM_HEAD}.weight");
        if self.config.tie_word_embeddings && found.contains_key(&head) {
            if !found.contains_key(WORD_EMBEDDINGS) {
                expected.remove(WORD_EMBEDDINGS);
            }
            expected.insert(head.clone(), vec![self.config.vocab_size, self.config.hidden_size]);
        }
        let mut problems = Vec::new();
        for (name, shape) in &found {
            match expected.remove(&schema::canonical(name)) {
                Some(expected) if expected != *shape => {
                    problems.push(format!("{name} has shape {shape:?}, expected {expected:?}"));
                }
                None if !schema::is_buffer(name) => problems.push(format!("{name} is unexpected")),
                _ => {}
            }
        }
        problems.extend(expected.keys().map(|name| format!("{name} is missing")));
        if !problems.is_empty() {
            return Err(self.mismatch(problems));
        }
        if self.tied && found.contains_key(&head) && found.contains_key(WORD_EMBEDDINGS) {
            // As transformers does: a file that holds two different matrices is not tied, whatever its config says.
            let [words, head] =
                [WORD_EMBEDDINGS, &head].map(|name| self.weights.tensor(name, DType::F32, &Device::Cpu));
            if let (Some(words), Some(head)) = (words?, head?) {
                self.tied = (words - head)?.abs()?.max_all()?.to_scalar::<f32>()? == 0.0;
            }
        }
        Ok(())
    }
}
