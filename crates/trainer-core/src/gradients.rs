use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use serde::Serialize;

use crate::clipped_step::clip_coefficient;
use crate::slices::with_slice;
use crate::{Parameters, Result, cuda};

/// The gradients of trainable parameters by name, summed over micro-batches.
///
/// They have no graphs. Gradients of other tensors in candle's store are dropped.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use trainer_core::Gradients;
///
/// let gradients = Gradients::from_iter([("weight".to_owned(), Tensor::new(&[3f32, 4.], &Device::Cpu)?)]);
/// for (name, gradient) in gradients.iter() {
///     println!("{name}: {gradient}");
/// }
/// assert_eq!(gradients.norms()?.global(), 5.0);
/// # Ok::<(), trainer_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Gradients(BTreeMap<String, Tensor>);

impl Gradients {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gradients of one backward pass and drops the rest of candle's store.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if a gradient has another shape than the sum so far.
    pub fn accumulate(&mut self, parameters: &Parameters, mut store: GradStore) -> Result<()> {
        for (name, variable) in parameters.iter() {
            if let Some(gradient) = store.remove(variable) {
                // A gradient can have a graph itself, through the tensors from which it was computed.
                self.add_one(name, gradient.detach())?;
            }
        }
        Ok(())
    }

    /// Adds other gradients. A missing one counts as 0.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if the shapes of two gradients differ.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        other.0.iter().try_for_each(|(name, gradient)| self.add_one(name, gradient.clone()))
    }

    pub(crate) fn add_one(&mut self, name: &str, gradient: Tensor) -> Result<()> {
        match self.0.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(gradient);
            }
            Entry::Occupied(mut sum) => {
                let total = (sum.get() + gradient)?;
                sum.insert(total);
            }
        }
        Ok(())
    }

    /// Sets the gradient of a parameter, which has the parameter's shape, and returns the one it replaces. The
    /// graph of the tensor is dropped.
    pub fn insert(&mut self, name: impl Into<String>, gradient: Tensor) -> Option<Tensor> {
        self.0.insert(name.into(), gradient.detach())
    }

    /// Returns the gradient of a parameter, if one reached it.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Iterates over names and gradients, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// The number of gradients.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no gradients.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names of the parameters without a gradient.
    pub fn missing(&self, parameters: &Parameters) -> Vec<String> {
        let names = parameters.iter().map(|(name, _)| name);
        names.filter(|name| !self.0.contains_key(*name)).map(str::to_owned).collect()
    }

    /// Returns the indices of the parameters without a gradient, in ascending order.
    pub(crate) fn missing_indices(&self, parameters: &Parameters) -> Vec<usize> {
        let names = parameters.iter().enumerate();
        names.filter(|(_, (name, _))| !self.0.contains_key(*name)).map(|(index, _)| index).collect()
    }

    /// Multiplies every gradient by `factor`.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle).
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        if self.0.values().any(|gradient| !gradient.device().is_cpu()) {
            let all: Vec<&Tensor> = self.0.values().collect();
            if let Some(scaled) = cuda::scaled(&all, factor)? {
                self.0.values_mut().zip(scaled).for_each(|(gradient, scaled)| *gradient = scaled);
                return Ok(());
            }
        }
        for gradient in self.0.values_mut() {
            *gradient = gradient.affine(factor, 0.0)?;
        }
        Ok(())
    }

    /// The same gradients in other memory.
    pub(crate) fn copied(&self) -> Result<Self> {
        let all: Vec<&Tensor> = self.0.values().collect();
        let copies = match cuda::scaled(&all, 1.0)? {
            Some(copies) => copies,
            None => all.into_iter().map(Tensor::copy).collect::<candle_core::Result<_>>()?,
        };
        Ok(Self(self.0.keys().cloned().zip(copies).collect()))
    }

    /// Computes the Euclidean norm of each gradient.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for a gradient that is not f32.
    pub fn norms(&self) -> Result<Norms> {
        let squares = sums_of_squares(self.0.values())?;
        Ok(self.0.keys().cloned().zip(squares.into_iter().map(f64::sqrt)).collect())
    }

    /// The norms after [`scale`](Self::scale), on the CPU, without the scaled gradients.
    pub(crate) fn scaled_norms(&self, factor: f64) -> Result<Norms> {
        let scaled = |value: f32| f64::from(value * factor as f32 + 0.0);
        let sum = |values: &[f32]| values.iter().map(|value| scaled(*value) * scaled(*value)).sum::<f64>();
        let norm =
            |(name, gradient): (&String, &Tensor)| Ok((name.clone(), with_slice(gradient, sum)?.sqrt()));
        self.0.iter().map(norm).collect()
    }

    /// Scales all gradients down together to a global norm of at most `max_norm`, as
    /// `torch.nn.utils.clip_grad_norm_` does: by `min(1, max_norm / (norm + 1e-6))`. A `max_norm` of 0 turns clipping off.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle).
    pub fn clip(&mut self, norm: f64, max_norm: f64) -> Result<()> {
        clip_coefficient(norm, max_norm).map_or(Ok(()), |coefficient| self.scale(coefficient))
    }
}

impl FromIterator<(String, Tensor)> for Gradients {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(gradients: I) -> Self {
        Self(gradients.into_iter().map(|(name, gradient)| (name, gradient.detach())).collect())
    }
}

/// The Euclidean norm of each gradient, by parameter name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Norms(BTreeMap<String, f64>);

impl Norms {
    /// The norm of all gradients together.
    pub fn global(&self) -> f64 {
        self.0.values().map(|norm| norm * norm).sum::<f64>().sqrt()
    }

    /// Iterates over parameter names and norms, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, norm)| (name.as_str(), *norm))
    }
}

impl FromIterator<(String, f64)> for Norms {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(norms: I) -> Self {
        Self(norms.into_iter().collect())
    }
}

fn sums_of_squares<'a>(gradients: impl Iterator<Item = &'a Tensor> + Clone) -> Result<Vec<f64>> {
    if gradients.clone().all(|gradient| gradient.device().is_cpu()) {
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        return gradients.map(|gradient| Ok(with_slice(gradient, sum)?)).collect();
    }
    if let Some(norms) = cuda::norms(&gradients.clone().collect::<Vec<_>>())? {
        return Ok(norms.into_iter().map(|norm| norm * norm).collect());
    }
    // One transfer for all norms: on an accelerator, each read waits for all work that was queued before it.
    let sums =
        gradients.map(|gradient| gradient.sqr()?.sum_all()).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&sums, 0)?.to_dtype(DType::F64)?.to_vec1()?)
}
