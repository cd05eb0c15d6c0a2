use std::collections::{BTreeSet, HashSet};

use candle_core::{Tensor, TensorId};
use train_ops::{Error, Result};

/// The layers and parameters of a model, recorded while it is built.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    linear: BTreeSet<String>,
    parameters: BTreeSet<String>,
    /// Embeddings and convolutions that can be adapted.
    adaptable: BTreeSet<String>,
    counted: HashSet<TensorId>,
    elements: usize,
}

impl Inventory {
    /// Records the linear layer at `path`.
    pub(crate) fn add_linear(&mut self, path: &str, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
        self.count(weight);
        bias.into_iter().for_each(|bias| self.count(bias));
        insert(&mut self.linear, path)
    }

    /// Records another parameter at its full `path`.
    pub(crate) fn add_parameter(&mut self, path: &str, value: &Tensor) -> Result<()> {
        self.count(value);
        insert(&mut self.parameters, path)
    }

    /// Records an embedding or a convolution that can be adapted, whose parameters are recorded too.
    pub(crate) fn add_adaptable(&mut self, path: &str) {
        self.adaptable.insert(path.to_owned());
    }

    /// Paths of all layers that can be adapted: linear layers, embeddings and convolutions.
    pub(crate) fn adaptable(&self) -> BTreeSet<&str> {
        self.linear.iter().chain(&self.adaptable).map(String::as_str).collect()
    }

    /// Paths of the linear layers.
    pub(crate) fn linear(&self) -> &BTreeSet<String> {
        &self.linear
    }

    /// Paths of the parameters outside linear layers.
    pub(crate) fn parameters(&self) -> &BTreeSet<String> {
        &self.parameters
    }

    /// Paths of the modules that cannot be adapted: every proper prefix of a layer's or a parameter's
    /// path.
    pub(crate) fn other_modules(&self) -> BTreeSet<&str> {
        self.linear
            .iter()
            .chain(&self.parameters)
            .flat_map(|path| path.match_indices('.').map(|(dot, _)| &path[..dot]))
            .filter(|module| !self.linear.contains(*module) && !self.adaptable.contains(*module))
            .collect()
    }

    /// Number of parameters. A tensor shared by two layers, such as a tied output layer's, counts once.
    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    fn count(&mut self, tensor: &Tensor) {
        if self.counted.insert(tensor.id()) {
            self.elements += tensor.elem_count();
        }
    }
}

fn insert(paths: &mut BTreeSet<String>, path: &str) -> Result<()> {
    if paths.insert(path.to_owned()) { Ok(()) } else { Err(Error::Duplicate { path: path.to_owned() }) }
}
