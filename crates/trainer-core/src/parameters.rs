use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use crate::files::sync_file;
use crate::slices::with_slice;
use crate::{Error, Result, tensors};

/// The trainable parameters of a model by name, in the order of the names; all f32.
///
/// The name identifies a parameter everywhere: its gradient, optimizer state and saved value.
#[derive(Clone, Debug)]
pub struct Parameters(BTreeMap<String, Var>);

impl Parameters {
    /// Registers variables for training, for example a `BTreeMap<String, Var>`, or those of a candle `VarMap`:
    /// `Parameters::new(var_map.data().lock().unwrap().clone())`. A `VarMap` iterates in random order; here they are sorted by
    /// name, so that every run sums norms in the same order.
    ///
    /// # Errors
    /// [`Error::NoParameters`] without variables, [`Error::ParameterDtype`] for a variable that is not f32,
    /// [`Error::DuplicateParameter`] for a name that occurs twice, and [`Error::SharedParameter`] for a variable with two
    /// names.
    pub fn new(variables: impl IntoIterator<Item = (String, Var)>) -> Result<Self> {
        // Sorted, so that the same fault always yields the same message.
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut parameters = BTreeMap::new();
        for (name, variable) in variables {
            if variable.dtype() != DType::F32 {
                return Err(Error::ParameterDtype { name, dtype: variable.dtype() });
            }
            if parameters.contains_key(&name) {
                return Err(Error::DuplicateParameter { name });
            }
            parameters.insert(name, variable);
        }
        let mut names = HashMap::new();
        for (name, variable) in &parameters {
            if let Some(first) = names.insert(variable.id(), name) {
                return Err(Error::SharedParameter { first: first.clone(), second: name.clone() });
            }
        }
        if parameters.is_empty() { Err(Error::NoParameters) } else { Ok(Self(parameters)) }
    }

    /// Iterates over names and variables, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// Returns the parameter with this name.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.0.get(name)
    }

    /// The number of trainable scalars over all parameters.
    pub fn element_count(&self) -> usize {
        self.0.values().map(|variable| variable.elem_count()).sum()
    }

    /// Computes a checksum of the bits of each parameter.
    pub(crate) fn checksums(&self) -> Result<BTreeMap<String, u32>> {
        let checksum = |values: &[f32]| {
            let mut hasher = crc32fast::Hasher::new();
            values.iter().for_each(|value| hasher.update(&value.to_le_bytes()));
            hasher.finalize()
        };
        let checksums = self.iter().map(|(name, variable)| {
            let values = variable.as_detached_tensor().to_device(&Device::Cpu)?;
            Ok((name.to_owned(), with_slice(&values, checksum)?))
        });
        checksums.collect()
    }

    /// Writes all values to a safetensors file and syncs it to disk.
    ///
    /// # Errors
    /// [`Error::Io`]; an existing file is then unchanged.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.write(path)?;
        sync_file(path)
    }

    /// Writes all values to a safetensors file. The caller syncs it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        tensors::save(path, self.values())
    }

    /// Sets all parameters to the values that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Tensors`] lists all missing, unexpected and misshapen tensors; no parameter is changed then.
    pub fn load(&self, path: &Path) -> Result<()> {
        let values = tensors::load_like(path, &self.values())?;
        for (name, variable) in self.iter() {
            variable.set(&values[name])?;
        }
        Ok(())
    }

    fn values(&self) -> BTreeMap<String, Tensor> {
        self.iter().map(|(name, variable)| (name.to_owned(), variable.as_detached_tensor())).collect()
    }
}
