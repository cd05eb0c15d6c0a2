use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use train_ops::Renaming;

use crate::schema::{self, WORD_EMBEDDINGS};
use crate::weights::Weights;
use crate::words::FileRows;
use crate::{Error, GenerationDefaults, GitConfig, Result};

/// The weight of the LM head.
const HEAD: &str = "output.weight";

/// A GIT checkpoint in the Hugging Face layout: a folder with `config.json` and the weights.
///
/// Opening it maps the weights into memory and checks every name and shape. Tensors are read when a model is built.
pub struct Checkpoint {
    dir: PathBuf,
    config: GitConfig,
    generation: GenerationDefaults,
    weights: Weights,
    tied: bool,
}

impl Checkpoint {
    /// Opens the checkpoint in the folder `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, the configuration is not GIT's, or the weights are not exactly the ones that it
    /// describes: the error lists all missing, unexpected and misshapen tensors.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        let config_path = dir.join("config.json");
        if !config_path.is_file() {
            return Err(Error::Missing { dir, wanted: "config.json" });
        }
        let mut config = GitConfig::read(&config_path)?;
        let generation = GenerationDefaults::read(&dir)?;
        generation.set_tokens(&mut config);
        let weights = Weights::open(&dir)?;
        let mut checkpoint = Self { dir, tied: config.tie_word_embeddings, config, generation, weights };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The configuration. Its begin and end tokens are those of `generation_config.json` where that names them.
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

    /// How the checkpoint asks to be decoded.
    pub fn generation(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// The name of every tensor of the model and the type that it is stored in. A tied head is left out.
    ///
    /// # Errors
    /// If a tensor is stored in a type that candle does not have.
    pub fn dtypes(&self) -> Result<BTreeMap<String, DType>> {
        let mut names: BTreeSet<String> = schema::tensors(&self.config).into_keys().collect();
        if !self.tied {
            names.insert(HEAD.to_owned());
        }
        names
            .into_iter()
            .map(|name| match self.stored(&name)? {
                Some((_, dtype)) => Ok((name, dtype)),
                None => Err(self.mismatch(vec![format!("{name} is missing")])),
            })
            .collect()
    }

    /// The name that a tensor has in the file, and its type there.
    fn stored(&self, name: &str) -> Result<Option<(String, DType)>> {
        let older = name.replace("img_temporal_embedding", "img_temperal_embedding");
        // A tied head may be stored under either name.
        let head = (self.tied && name == WORD_EMBEDDINGS).then(|| HEAD.to_owned());
        for name in [Some(name.to_owned()), Some(older), head].into_iter().flatten() {
            if let Some(dtype) = self.weights.dtype(&name)? {
                return Ok(Some((name, dtype)));
            }
        }
        Ok(None)
    }

    /// The tensor called `name`, converted to `dtype`.
    ///
    /// # Errors
    /// If the checkpoint has no tensor of that name, or it cannot be read.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        if let Some((stored, _)) = self.stored(name)?
            && let Some(tensor) = self.weights.tensor(&stored, dtype, device)?
        {
            return Ok(tensor);
        }
        Err(self.mismatch(vec![format!("{name} is missing")]))
    }

    /// The matrix called `name`, left in its file; `None` if the file is not a safetensors file.
    pub(crate) fn rows(&self, name: &str) -> Result<Option<FileRows>> {
        match self.weights.rows(name)? {
            None if self.tied && name == WORD_EMBEDDINGS => self.weights.rows(HEAD),
            rows => Ok(rows),
        }
    }

    fn mismatch(&self, problems: Vec<String>) -> Error {
        Error::Tensors { path: self.dir.clone(), problems }
    }

    /// Compares the tensors of the file with the schema of the configuration.
    fn check(&mut self) -> Result<()> {
        let mut expected = schema::tensors(&self.config);
        let found = self.weights.shapes();
        if self.config.tie_word_embeddings && found.contains_key(HEAD) {
            if !found.contains_key(WORD_EMBEDDINGS) {
                expected.remove(WORD_EMBEDDINGS);
            }
            expected.insert(HEAD.to_owned(), vec![self.config.vocab_size, self.config.hidden_size]);
        }
        if let Some(renaming) = renaming(&expected, &found) {
            return Err(Error::Renamed { path: self.dir.clone(), renaming });
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
        if self.tied && found.contains_key(HEAD) && found.contains_key(WORD_EMBEDDINGS) {
            // As in transformers, a file with two different matrices is not tied, whatever its config says.
            let [words, head] =
                [WORD_EMBEDDINGS, HEAD].map(|name| self.weights.tensor(name, DType::F32, &Device::Cpu));
            if let (Some(words), Some(head)) = (words?, head?) {
                self.tied = (words - head)?.abs()?.max_all()?.to_scalar::<f32>()? == 0.0;
            }
        }
        Ok(())
    }
}

/// What the names of all tensors have too much or too little.
fn renaming(
    expected: &BTreeMap<String, Vec<usize>>,
    found: &BTreeMap<String, Vec<usize>>,
) -> Option<Renaming> {
    let found: Vec<&str> = found.keys().map(String::as_str).collect();
    let names: Vec<&str> = expected.keys().map(String::as_str).collect();
    let is_expected = |name: &str| expected.contains_key(&schema::canonical(name)) || schema::is_buffer(name);
    Renaming::find(&found, &names, is_expected)
}
