use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use train_ops::Renaming;

use crate::weights::Weights;
use crate::words::FileRows;
use crate::{Error, Result, TensorSchema};

/// The tensors of a checkpoint's folder, whose names and shapes are exactly those of a [`TensorSchema`].
///
/// Tensors are read from their file on request.
pub struct CheckpointTensors {
    dir: PathBuf,
    schema: TensorSchema,
    weights: Weights,
    tied: bool,
}

impl CheckpointTensors {
    /// Opens the weights in the folder `dir`: `model.safetensors`, `pytorch_model.bin`, or the shards of either.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the tensors are not those of `schema`: the error lists all missing, unexpected and
    /// misshapen tensors.
    pub fn open(dir: &Path, schema: TensorSchema) -> Result<Self> {
        let weights = Weights::open(dir)?;
        let mut tensors = Self { dir: dir.to_owned(), tied: schema.tie, schema, weights };
        let found = tensors.weights.shapes();
        tensors.check(&found)?;
        tensors.tied = tensors.tied && tensors.same_head(&found)?;
        Ok(tensors)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the LM head shares the word embedding's weight.
    pub fn tied(&self) -> bool {
        self.tied
    }

    /// The names and shapes that the tensors have.
    pub fn schema(&self) -> &TensorSchema {
        &self.schema
    }

    /// The name of every tensor of the model and the type that it is stored in. A tied head is left out.
    ///
    /// # Errors
    /// If a tensor is stored in a type that candle does not have.
    pub fn dtypes(&self) -> Result<BTreeMap<String, DType>> {
        let mut names: BTreeSet<String> = self.schema.shapes.keys().cloned().collect();
        if !self.tied {
            names.insert(self.schema.head_weight());
        }
        names
            .into_iter()
            .map(|name| match self.stored(&name)? {
                Some((_, dtype)) => Ok((name, dtype)),
                None => Err(self.mismatch(vec![format!("{name} is missing")])),
            })
            .collect()
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
            None if self.tied && name == self.schema.words => self.weights.rows(&self.schema.head_weight()),
            rows => Ok(rows),
        }
    }

    /// The name that a tensor has in the file, and its type there.
    fn stored(&self, name: &str) -> Result<Option<(String, DType)>> {
        let aliases =
            self.schema.aliases.iter().filter(|(_, own)| *own == name).map(|(alias, _)| alias.clone());
        // A tied head may be stored under either name.
        let head = (self.tied && name == self.schema.words).then(|| self.schema.head_weight());
        for name in std::iter::once(name.to_owned()).chain(aliases).chain(head) {
            if let Some(dtype) = self.weights.dtype(&name)? {
                return Ok(Some((name, dtype)));
            }
        }
        Ok(None)
    }

    fn mismatch(&self, problems: Vec<String>) -> Error {
        Error::Tensors { path: self.dir.clone(), problems }
    }

    /// Compares the names and shapes in the file with those of the schema.
    fn check(&self, found: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        let schema = &self.schema;
        let mut expected = schema.shapes.clone();
        let head = schema.head_weight();
        if schema.tie && found.contains_key(&head) {
            // The word embedding may be missing; then the head has its shape.
            if let Some(shape) = expected.get(&schema.words).cloned() {
                if !found.contains_key(&schema.words) {
                    expected.remove(&schema.words);
                }
                expected.insert(head, shape);
            }
        }
        if let Some(renaming) = self.renaming(&expected, found) {
            return Err(Error::Renamed { path: self.dir.clone(), renaming });
        }
        let mut problems = Vec::new();
        let mut missing: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
        for (stored, shape) in found {
            let name = schema.canonical(stored);
            match expected.get(name) {
                Some(expected) if expected != shape => {
                    problems.push(format!("{stored} has shape {shape:?}, expected {expected:?}"));
                }
                None if !schema.is_buffer(stored) => problems.push(format!("{stored} is unexpected")),
                Some(_) if stored != name && found.contains_key(name) && !self.equal(stored, name)? => {
                    problems.push(format!("{stored} and {name} differ, and should be one tensor"));
                }
                _ => {}
            }
            missing.remove(name);
        }
        problems.extend(missing.into_iter().map(|name| format!("{name} is missing")));
        if problems.is_empty() { Ok(()) } else { Err(self.mismatch(problems)) }
    }

    /// The missing and the unexpected names of all tensors.
    fn renaming(
        &self,
        expected: &BTreeMap<String, Vec<usize>>,
        found: &BTreeMap<String, Vec<usize>>,
    ) -> Option<Renaming> {
        let found: Vec<&str> = found.keys().map(String::as_str).collect();
        let names: Vec<&str> = expected.keys().map(String::as_str).collect();
        let is_expected =
            |name: &str| expected.contains_key(self.schema.canonical(name)) || self.schema.is_buffer(name);
        Renaming::find(&found, &names, is_expected)
    }

    /// Whether the file has one matrix for words and head. As in transformers, a file with two different
    /// matrices is not tied, whatever its configuration says.
    fn same_head(&self, found: &BTreeMap<String, Vec<usize>>) -> Result<bool> {
        let (words, head) = (&self.schema.words, self.schema.head_weight());
        Ok(!found.contains_key(&head) || !found.contains_key(words) || self.equal(words, &head)?)
    }

    /// Whether two tensors of the file hold the same numbers.
    fn equal(&self, first: &str, second: &str) -> Result<bool> {
        let [first, second] = [first, second].map(|name| self.weights.tensor(name, DType::F32, &Device::Cpu));
        Ok(match (first?, second?) {
            (Some(first), Some(second)) if first.dims() == second.dims() => {
                (first - second)?.abs()?.max_all()?.to_scalar::<f32>()? == 0.0
            }
            _ => false,
        })
    }
}
