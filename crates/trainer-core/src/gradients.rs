use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use crate::slices::with_slice;
use crate::{Parameters, Result};

/// The gradients of trainable parameters by name, summed over micro-batches.
///
/// Holds no graph, and nothing of what candle's store keeps besides: gradients of frozen tensors.
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what one backward pass found, and drops the rest of the store.
    pub fn accumulate(&mut self, parameters: &Parameters, mut store: GradStore) -> Result<()> {
        for (name, variable) in parameters.iter() {
            // A gradient can carry a graph of its own, through the tensors that it was computed from.
            let Some(gradient) = store.remove(variable).map(|gradient| gradient.detach()) else { continue };
            let sum = match self.0.get(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            self.0.insert(name.to_owned(), sum);
        }
        Ok(())
    }

    /// Adds other gradients; one that is missing counts as 0.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        for (name, gradient) in &other.0 {
            let sum = match self.0.get(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient.clone(),
            };
            self.0.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// The gradient of a parameter, if any reached it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The names of the parameters that no gradient reached.
    pub fn missing(&self, parameters: &Parameters) -> Vec<String> {
        parameters
            .iter()
            .filter(|(name, _)| !self.0.contains_key(*name))
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.0.values_mut() {
            *gradient = gradient.affine(factor, 0.0)?;
        }
        Ok(())
    }

    /// The Euclidean norm of each gradient.
    pub fn norms(&self) -> Result<Norms> {
        let squares = sums_of_squares(self.0.values())?;
        let norms = self.0.keys().zip(squares).map(|(name, squares)| (name.clone(), squares.sqrt()));
        Ok(Norms(norms.collect()))
    }

    /// Scales all gradients down together so that their global norm is at most `max_norm`, as
    /// `torch.nn.utils.clip_grad_norm_` does: by `min(1, max_norm / (norm + 1e-6))`. A `max_norm` of 0 leaves them.
    pub fn clip(&mut self, norm: f64, max_norm: f64) -> Result<()> {
        let coefficient = max_norm / (norm + 1e-6);
        if max_norm > 0.0 && coefficient < 1.0 { self.scale(coefficient) } else { Ok(()) }
    }
}

/// The Euclidean norm of each gradient, by parameter name.
#[derive(Clone, Debug, PartialEq)]
pub struct Norms(BTreeMap<String, f64>);

impl Norms {
    /// The norm of all gradients together.
    pub fn global(&self) -> f64 {
        self.0.values().map(|norm| norm * norm).sum::<f64>().sqrt()
    }

    /// The norms with the names of their parameters.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, norm)| (name.as_str(), *norm))
    }
}

fn sums_of_squares<'a>(gradients: impl Iterator<Item = &'a Tensor> + Clone) -> Result<Vec<f64>> {
    if gradients.clone().all(|gradient| gradient.device().is_cpu()) {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        return gradients.map(|gradient| Ok(with_slice(gradient, sum)?)).collect();
    }
    // Read together: on an accelerator, every read waits for all that was asked before it.
    let sums =
        gradients.map(|gradient| gradient.sqr()?.sum_all()).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.to_vec1()?)
}
