//! Embeddings.

use std::sync::Arc;

use candle_core::{Module, Result, Tensor};
use candle_nn::Init;
use train_ops::Adaptation;

use crate::error::to_candle;
use crate::layer_norm::parameter;
use crate::{VarBuilder, current_context};

/// Rows of a matrix by their number: `(...)` to `(..., hidden_size)`.
#[derive(Clone, Debug)]
pub struct Embedding {
    embeddings: Tensor,
    hidden_size: usize,
    built: bool,
    adaptation: Option<Arc<dyn Adaptation>>,
}

impl Embedding {
    /// From a matrix of shape `(rows, hidden_size)`.
    pub fn new(embeddings: Tensor, hidden_size: usize) -> Self {
        Self { embeddings, hidden_size, built: false, adaptation: None }
    }

    /// The matrix, of shape `(rows, hidden_size)`.
    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
    }

    /// The size of a row.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }
}

impl Module for Embedding {
    fn forward(&self, indexes: &Tensor) -> Result<Tensor> {
        let shape = [indexes.dims(), &[self.hidden_size]].concat();
        let embeddings = parameter(&self.embeddings, self.built);
        let ys = embeddings.index_select(&indexes.flatten_all()?, 0)?.reshape(shape)?;
        match &self.adaptation {
            None => Ok(ys),
            Some(adaptation) => adaptation.forward(indexes, ys, &current_context()).map_err(to_candle),
        }
    }
}

/// An embedding from the tensor `weight` of shape `(in_size, out_size)`.
///
/// # Errors
/// If it is missing or has another shape.
pub fn embedding(in_size: usize, out_size: usize, vb: VarBuilder<'_>) -> Result<Embedding> {
    let init = Init::Randn { mean: 0., stdev: 1. };
    let embeddings = vb.get_with_hints((in_size, out_size), "weight", init)?;
    let adaptation = vb.adapt_embedding(&embeddings)?;
    Ok(Embedding { built: vb.is_built(), adaptation, ..Embedding::new(embeddings, out_size) })
}
