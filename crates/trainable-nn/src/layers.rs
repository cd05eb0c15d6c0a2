//! The layers of a model under construction, shared by all clones of its `VarBuilder`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};
use train_ops::{Adaptation, Convolution, LayerBuilder, LinearLayer};

use crate::error::to_candle;

/// The layers that a [`LayerBuilder`] has made so far. Clones share it.
#[derive(Clone)]
pub(crate) struct Layers(Arc<Mutex<State>>);

struct State {
    builder: Box<dyn LayerBuilder + Send>,
    /// By path in the checkpoint. A model requests a tied or shared layer twice.
    linear: HashMap<String, Arc<dyn LinearLayer>>,
    parameters: HashMap<String, Tensor>,
    adaptations: HashMap<String, Option<Arc<dyn Adaptation>>>,
}

impl Layers {
    /// Asks `builder` for all layers.
    pub(crate) fn new(builder: impl LayerBuilder + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(State {
            builder: Box::new(builder),
            linear: HashMap::new(),
            parameters: HashMap::new(),
            adaptations: HashMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parameter `name`, made from `read` at the first request. The builder gets it under the name `path`.
    pub(crate) fn parameter(
        &self,
        name: &str,
        path: &str,
        read: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut state = self.state();
        if let Some(parameter) = state.parameters.get(name) {
            return Ok(parameter.clone());
        }
        let parameter = state.builder.parameter(path, read()?).map_err(to_candle)?;
        state.parameters.insert(name.to_owned(), parameter.clone());
        Ok(parameter)
    }

    /// A parameter that exists already.
    pub(crate) fn made(&self, name: &str) -> Option<Tensor> {
        self.state().parameters.get(name).cloned()
    }

    /// The adaptation of the layer `name`, which is not linear; `ask` gets it from the builder at the first
    /// request.
    pub(crate) fn adaptation(
        &self,
        name: &str,
        ask: impl FnOnce(&mut dyn LayerBuilder) -> train_ops::Result<Option<Arc<dyn Adaptation>>>,
    ) -> Result<Option<Arc<dyn Adaptation>>> {
        let mut state = self.state();
        if let Some(adaptation) = state.adaptations.get(name) {
            return Ok(adaptation.clone());
        }
        let adaptation = ask(state.builder.as_mut()).map_err(to_candle)?;
        state.adaptations.insert(name.to_owned(), adaptation.clone());
        Ok(adaptation)
    }

    /// The linear layer `name`, made from `read` at the first request. The builder gets it under the name
    /// `path`.
    pub(crate) fn linear(
        &self,
        name: &str,
        path: &str,
        read: impl FnOnce() -> Result<(Tensor, Option<Tensor>)>,
    ) -> Result<Arc<dyn LinearLayer>> {
        let mut state = self.state();
        if let Some(layer) = state.linear.get(name) {
            return Ok(layer.clone());
        }
        let (weight, bias) = read()?;
        let layer = state.builder.linear(path, weight, bias).map_err(to_candle)?;
        state.linear.insert(name.to_owned(), layer.clone());
        Ok(layer)
    }
}

/// A builder that is lent to a model's constructor and taken back when the model is built.
pub(crate) struct Lent<B>(Arc<Mutex<Option<B>>>);

impl<B> Lent<B> {
    pub(crate) fn new(builder: B) -> Self {
        Self(Arc::new(Mutex::new(Some(builder))))
    }

    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Takes the builder back. From here on, a request for a layer is an error.
    pub(crate) fn take(&self) -> Option<B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn with<T>(&self, path: &str, ask: impl FnOnce(&mut B) -> train_ops::Result<T>) -> train_ops::Result<T> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(builder) => ask(builder),
            None => Err(train_ops::Error::Build {
                path: path.to_owned(),
                source: "the model is complete; build all layers inside the closure of VarBuilder::build"
                    .into(),
            }),
        }
    }
}

impl<B: LayerBuilder> LayerBuilder for Lent<B> {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        self.with(path, |builder| builder.linear(path, weight, bias))
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        self.with(path, |builder| builder.parameter(path, value))
    }

    fn adapt_embedding(
        &mut self,
        path: &str,
        weight: &Tensor,
    ) -> train_ops::Result<Option<Arc<dyn Adaptation>>> {
        self.with(path, |builder| builder.adapt_embedding(path, weight))
    }

    fn adapt_conv2d(
        &mut self,
        path: &str,
        weight: &Tensor,
        convolution: Convolution,
    ) -> train_ops::Result<Option<Arc<dyn Adaptation>>> {
        self.with(path, |builder| builder.adapt_conv2d(path, weight, convolution))
    }
}
