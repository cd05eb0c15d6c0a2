use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};

thread_local! {
    /// Gradients of parameters in the running backward pass of [`backward`], with the parameters.
    static FOUND: RefCell<Option<Vec<(Tensor, Tensor)>>> = const { RefCell::new(None) };
}

/// Candle's `loss.backward()`, with fewer launches on a GPU: candle clears a tensor and adds to it for each gradient of a parameter, two
/// launches beside the one that computes it. Adapters on a GPU put their gradients into the store as they are. The values are the same,
/// up to the order in which three or more gradients of one parameter are added.
///
/// # Errors
/// As `backward` of a tensor.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let pass = Pass::begin();
    let mut store = loss.backward()?;
    for (parameter, gradient) in pass.end() {
        let sum = match store.get(&parameter) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        store.insert(&parameter, sum);
    }
    Ok(store)
}

/// The gradient of an operation's argument, for candle; `None` if it is a parameter's and was put aside for the store.
#[cfg(feature = "fused-cuda")]
pub(crate) fn deliver(argument: &Tensor, gradient: Tensor) -> Option<Tensor> {
    FOUND.with_borrow_mut(|found| match found.as_mut().filter(|_| argument.is_variable()) {
        Some(found) => {
            found.push((argument.clone(), gradient));
            None
        }
        None => Some(gradient),
    })
}

/// A backward pass, which may run within an operation of another one.
struct Pass {
    outer: Option<Vec<(Tensor, Tensor)>>,
}

impl Pass {
    fn begin() -> Self {
        Self { outer: FOUND.replace(Some(Vec::new())) }
    }

    fn end(self) -> Vec<(Tensor, Tensor)> {
        FOUND.take().unwrap_or_default()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        FOUND.set(self.outer.take());
    }
}
