use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Tensor, Var};

use crate::{Error, FrozenLinear, LinearLayer, Result, TrainableLinear};

/// Makes the layers of a model as the model asks for them, and so decides which parts are trained and how.
///
/// Paths are those of the checkpoint, dotted and without `.weight`: `git.encoder.layer.0.attention.self.query`.
pub trait LayerBuilder {
    /// The linear layer at `path`, from its `weight` of shape `(out_features, in_features)` and its `bias` of shape
    /// `(out_features)`.
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>>;

    /// Any other parameter (embedding, norm, convolution, class token) at its full `path`,
    /// `git.embeddings.LayerNorm.weight`. The tensor returned is the one that the model uses.
    fn parameter(&mut self, path: &str, value: Tensor) -> Result<Tensor>;
}

/// Builds every layer frozen.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrozenBuilder;

impl LayerBuilder for FrozenBuilder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        Ok(Arc::new(FrozenLinear::new(path, weight, bias)?))
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> Result<Tensor> {
        Ok(value)
    }
}

/// Builds every layer frozen, with linear weights of 8 bits: [`FrozenLinear::quantised`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Int8Builder;

impl LayerBuilder for Int8Builder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        Ok(Arc::new(FrozenLinear::quantised(path, weight, bias)?))
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> Result<Tensor> {
        Ok(value)
    }
}

/// Builds every layer trainable: full fine-tuning, or pre-training.
///
/// [`finish`](Self::finish) hands out the variables by name, in the order of their names.
#[derive(Debug, Default)]
pub struct TrainableBuilder {
    parameters: BTreeMap<String, Var>,
}

impl TrainableBuilder {
    /// A builder that has built nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The variables of all that was built, by checkpoint name (`….weight`, `….bias`).
    pub fn finish(self) -> BTreeMap<String, Var> {
        self.parameters
    }

    fn variable(&mut self, path: String, value: &Tensor) -> Result<Tensor> {
        let variable = Var::from_tensor(value)?;
        let tensor = variable.as_tensor().clone();
        match self.parameters.insert(path.clone(), variable) {
            None => Ok(tensor),
            Some(_) => Err(Error::Duplicate { path }),
        }
    }
}

impl LayerBuilder for TrainableBuilder {
    fn linear(&mut self, path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Arc<dyn LinearLayer>> {
        let weight = self.variable(format!("{path}.weight"), &weight)?;
        let bias = bias.map(|bias| self.variable(format!("{path}.bias"), &bias)).transpose()?;
        Ok(Arc::new(TrainableLinear::new(path, weight, bias)?))
    }

    fn parameter(&mut self, path: &str, value: Tensor) -> Result<Tensor> {
        self.variable(path.to_owned(), &value)
    }
}
