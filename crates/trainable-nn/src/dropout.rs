use std::cell::Cell;

use candle_core::{ModuleT, Result, Tensor, bail};

use crate::current_context;
use crate::error::to_candle;

thread_local! {
    static CONSTRUCTED: Cell<u64> = const { Cell::new(0) };
}

/// Inverted dropout. Its masks are a function of the keys of the forward context that the thread has
/// [entered](crate::enter), however samples are batched.
///
/// Each dropout layer of a model has its own masks. candle-nn's dropout has no name, so the layers are numbered
/// as they are constructed, from 0 in each [`VarBuilder::build`](crate::VarBuilder::build).
#[derive(Clone, Debug)]
pub struct Dropout {
    p: f32,
    path: String,
}

impl Dropout {
    /// Drops elements with probability `p` in `[0, 1)`.
    pub fn new(p: f32) -> Self {
        let number = CONSTRUCTED.with(|constructed| constructed.replace(constructed.get() + 1));
        Self { p, path: format!("Dropout.{number}") }
    }

    /// Applies dropout to `xs` of shape `(samples * n, ...)` if `train`; the first dimension is divided evenly
    /// among the samples of the pass. Otherwise this is the identity.
    ///
    /// # Errors
    /// If `train` is set and the thread has not entered a training context, which has the keys of the masks, or
    /// if `p` is not in `[0, 1)`.
    pub fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        if !train || self.p == 0.0 {
            return Ok(xs.clone());
        }
        let ctx = current_context();
        if !ctx.is_training() {
            bail!(
                "{}: dropout draws its masks from the keys of a forward context for training; enter one with \
                 trainable_nn::enter(ForwardContext::training(keys)) before the forward ctx",
                self.path
            )
        }
        let dropout = train_ops::Dropout::new(&self.path, self.p).map_err(to_candle)?;
        dropout.forward(xs, &ctx).map_err(to_candle)
    }
}

impl ModuleT for Dropout {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.forward(xs, train)
    }
}

/// Numbers the dropouts that this thread constructs from 0 on, until it is dropped.
pub(crate) struct Numbering {
    before: u64,
}

impl Numbering {
    pub(crate) fn start() -> Self {
        Self { before: CONSTRUCTED.replace(0) }
    }
}

impl Drop for Numbering {
    fn drop(&mut self) {
        CONSTRUCTED.set(self.before);
    }
}
