use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use crate::files::sync_file;
use crate::slices::with_slice;
use crate::{Error, Result, tensors};

/// The trainable parameters of a model by name, in the order of their names; all f32, and on one device.
///
/// Everything the engine keeps about a parameter (gradient, moments, saved value) is kept under its name.
#[derive(Clone, Debug)]
pub struct Parameters(BTreeMap<String, Var>);

impl Parameters {
    /// Registers variables for training.
    ///
    /// # Errors
    /// [`Error::NoParameters`] for an empty map, [`Error::ParameterDtype`] for a variable that is not f32, and
    /// [`Error::SharedParameter`] where two names stand for one variable.
    pub fn new(variables: BTreeMap<String, Var>) -> Result<Self> {
        let mut names = HashMap::new();
        for (name, variable) in &variables {
            if variable.dtype() != DType::F32 {
                return Err(Error::ParameterDtype { name: name.clone(), dtype: variable.dtype() });
            }
            if let Some(first) = names.insert(variable.id(), name) {
                return Err(Error::SharedParameter { first: first.clone(), second: name.clone() });
            }
        }
        if variables.is_empty() { Err(Error::NoParameters) } else { Ok(Self(variables)) }
    }

    /// The parameters with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.0.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// The number of trainable numbers, over all parameters.
    pub fn element_count(&self) -> usize {
        self.0.values().map(|variable| variable.elem_count()).sum()
    }

    /// A checksum of the bits of each parameter.
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

    /// Writes the values of all parameters to a safetensors file, and waits until it is on the disk.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.write(path)?;
        sync_file(path)
    }

    /// Writes the values of all parameters to a safetensors file that somebody else syncs.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        tensors::save(
            path,
            self.iter().map(|(name, variable)| (name.to_owned(), variable.as_detached_tensor())),
        )
    }

    /// Sets all parameters to the values that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Tensors`] lists every tensor that is missing, unexpected or misshapen; then no parameter has changed.
    pub fn load(&self, path: &Path) -> Result<()> {
        let wanted: BTreeMap<String, Tensor> =
            self.iter().map(|(name, variable)| (name.to_owned(), variable.as_detached_tensor())).collect();
        let values = tensors::load_like(path, &wanted)?;
        for (name, variable) in self.iter() {
            variable.set(&values[name])?;
        }
        Ok(())
    }
}
