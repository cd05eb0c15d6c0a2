//! The methods of candle-nn's `VarBuilder`, under its names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;

use super::{Renamer, SimpleBackend, VarBuilder};

impl<'a> VarBuilder<'a> {
    /// Tensors of a backend.
    pub fn from_backend(backend: Box<dyn SimpleBackend + 'a>, dtype: DType, device: Device) -> Self {
        candle_nn::VarBuilder::from_backend(backend, dtype, device).into()
    }

    /// Returns zeros for every name.
    pub fn zeros(dtype: DType, device: &Device) -> Self {
        candle_nn::VarBuilder::zeros(dtype, device).into()
    }

    /// Tensors by name.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        candle_nn::VarBuilder::from_tensors(tensors, dtype, device).into()
    }

    /// The variables of a map, initialized at their first request.
    pub fn from_varmap(varmap: &crate::VarMap, dtype: DType, device: &Device) -> Self {
        candle_nn::VarBuilder::from_varmap(varmap, dtype, device).into()
    }

    /// Safetensors files, mapped into memory.
    ///
    /// # Safety
    /// The files must not change while they are mapped.
    ///
    /// # Errors
    /// If a file cannot be read.
    #[allow(unsafe_code)]
    pub unsafe fn from_mmaped_safetensors<P: AsRef<Path>>(
        paths: &[P],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        // SAFETY: the caller guarantees it.
        Ok(unsafe { candle_nn::VarBuilder::from_mmaped_safetensors(paths, dtype, device) }?.into())
    }

    /// A safetensors file in memory.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_buffered_safetensors(data: Vec<u8>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(candle_nn::VarBuilder::from_buffered_safetensors(data, dtype, device)?.into())
    }

    /// A safetensors file in memory that someone else owns.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_slice_safetensors(data: &'a [u8], dtype: DType, device: &Device) -> Result<Self> {
        Ok(candle_nn::VarBuilder::from_slice_safetensors(data, dtype, device)?.into())
    }

    /// An npz file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_npz<P: AsRef<Path>>(path: P, dtype: DType, device: &Device) -> Result<Self> {
        Ok(candle_nn::VarBuilder::from_npz(path, dtype, device)?.into())
    }

    /// A file of `torch.save`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_pth<P: AsRef<Path>>(path: P, dtype: DType, device: &Device) -> Result<Self> {
        Ok(candle_nn::VarBuilder::from_pth(path, dtype, device)?.into())
    }

    /// The part `state_key` of a file of `torch.save`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn from_pth_with_state<P: AsRef<Path>>(
        path: P,
        dtype: DType,
        state_key: &str,
        device: &Device,
    ) -> Result<Self> {
        Ok(candle_nn::VarBuilder::from_pth_with_state(path, dtype, state_key, device)?.into())
    }

    /// Asks for `f(name)` instead of each `name`.
    pub fn rename_f<F: Fn(&str) -> String + Sync + Send + 'static>(self, f: F) -> Self {
        let f: Box<dyn Fn(&str) -> String + Sync + Send> = Box::new(f);
        self.rename(f)
    }

    /// Asks for `renamer.rename(name)` instead of each `name`.
    pub fn rename<R: Renamer + Send + Sync + 'a>(self, renamer: R) -> Self {
        let renamer: Arc<dyn Renamer + Send + Sync + 'a> = Arc::new(renamer);
        let (own, before) = (renamer.clone(), self.renamed.clone());
        let renamed = move |name: &str| {
            let name = own.rename(name);
            before.as_ref().map_or_else(|| name.to_string(), |before| before(&name))
        };
        Self {
            weights: self.weights.rename(SharedRenamer(renamer)),
            renamed: Some(Arc::new(renamed)),
            ..self
        }
    }

    /// The prefix of all names.
    pub fn prefix(&self) -> String {
        self.weights.prefix()
    }

    /// Without the prefix.
    pub fn root(&self) -> Self {
        self.with(self.weights.root())
    }

    /// With another prefix.
    pub fn set_prefix(&self, prefix: impl ToString) -> Self {
        self.with(self.weights.set_prefix(prefix))
    }

    /// With `s` after the prefix.
    pub fn push_prefix<S: ToString>(&self, s: S) -> Self {
        self.with(self.weights.push_prefix(s))
    }

    /// Short for [`push_prefix`](Self::push_prefix).
    pub fn pp<S: ToString>(&self, s: S) -> Self {
        self.push_prefix(s)
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        self.weights.device()
    }

    /// The type of the tensors.
    pub fn dtype(&self) -> DType {
        self.weights.dtype()
    }

    /// With another type.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        self.with(self.weights.to_dtype(dtype))
    }

    /// On another device.
    pub fn set_device(self, device: Device) -> Self {
        Self { weights: self.weights.set_device(device), ..self }
    }

    /// With another type.
    pub fn set_dtype(self, dtype: DType) -> Self {
        Self { weights: self.weights.set_dtype(dtype), ..self }
    }

    /// Whether there is a tensor of this name.
    pub fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// If there is none, or it has another shape.
    pub fn get<S: Into<Shape>>(&self, shape: S, name: &str) -> Result<Tensor> {
        self.get_with_hints(shape, name, Init::default())
    }

    /// The tensor `name`, initialized as `init` says if its source makes new ones.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with_hints<S: Into<Shape>>(&self, shape: S, name: &str, init: Init) -> Result<Tensor> {
        self.get_with_hints_dtype(shape, name, init, self.dtype())
    }

    /// The tensor `name` in the type `dtype`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_with_hints_dtype<S: Into<Shape>>(
        &self,
        shape: S,
        name: &str,
        init: Init,
        dtype: DType,
    ) -> Result<Tensor> {
        let shape = shape.into();
        let expected = shape.clone();
        let read = || self.weights.get_with_hints_dtype(shape, name, init, dtype);
        let tensor = self.parameter(name, dtype, read)?;
        if tensor.shape() == &expected {
            return Ok(tensor);
        }
        let (msg, got) = (format!("shape mismatch for {}", self.full(name)), tensor.shape().clone());
        Err(candle_core::Error::UnexpectedShape { msg, expected, got })
    }

    /// The tensor `name` in any shape.
    ///
    /// # Errors
    /// If there is none.
    pub fn get_unchecked(&self, name: &str) -> Result<Tensor> {
        self.get_unchecked_dtype(name, self.dtype())
    }

    /// The tensor `name` in any shape, in the type `dtype`.
    ///
    /// # Errors
    /// If there is none.
    pub fn get_unchecked_dtype(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.parameter(name, dtype, || self.weights.get_unchecked_dtype(name, dtype))
    }

    /// The tensor `name` directly from its source: a buffer, which is never trained.
    pub(crate) fn buffer<S: Into<Shape>>(&self, shape: S, name: &str, init: Init) -> Result<Tensor> {
        self.weights.get_with_hints(shape, name, init)
    }
}

/// candle's trait on shared renamers.
struct SharedRenamer<'a>(Arc<dyn Renamer + Send + Sync + 'a>);

impl Renamer for SharedRenamer<'_> {
    fn rename(&self, name: &str) -> Cow<'_, str> {
        Cow::Owned(self.0.rename(name).into_owned())
    }
}
