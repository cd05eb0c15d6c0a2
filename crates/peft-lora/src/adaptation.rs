use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{Adaptation, ForwardContext};

use crate::by_sample::by_sample;
use crate::state::{SharedState, State};
use crate::update::OtherBase;
use crate::{Error, Result};

/// The active adapters of a model on one of its embeddings or convolutions.
#[derive(Debug)]
pub(crate) struct AdaptableResult {
    path: String,
    pub(crate) base: OtherBase,
    shared: Arc<SharedState>,
}

impl AdaptableResult {
    pub(crate) fn new(path: &str, base: OtherBase, shared: Arc<SharedState>) -> Self {
        Self { path: path.to_owned(), base, shared }
    }

    fn refused(&self, source: Error) -> train_ops::Error {
        train_ops::Error::Layer { path: self.path.clone(), source: Box::new(source) }
    }

    /// `ys` with the updates of these adapters.
    fn add<'a>(
        &self,
        adapters: impl Iterator<Item = Result<&'a crate::update::Added>>,
        [xs, ys]: [&Tensor; 2],
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let mut sum = ys.clone();
        for adapter in adapters {
            let adapter = adapter.map_err(|error| self.refused(error))?;
            sum = (sum + adapter.forward(xs, ctx)?.to_dtype(ys.dtype())?)?;
        }
        Ok(sum)
    }

    fn by_name(
        &self,
        state: &State,
        names: &[String],
        inputs: [&Tensor; 2],
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let compute = |name: &str, inputs: [&Tensor; 2]| {
            let adapter = state.other_on(name, &self.path).transpose();
            self.add(adapter.into_iter(), inputs, ctx)
        };
        by_sample(names, inputs, ctx, compute, |error| self.refused(error))
    }
}

impl Adaptation for AdaptableResult {
    fn forward(&self, xs: &Tensor, ys: Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        if self.shared.is_disabled() {
            return Ok(ys);
        }
        let state = self.shared.in_pass(ctx);
        match ctx.adapters() {
            Some(names) => self.by_name(&state, names, [xs, &ys], ctx),
            None => self.add(state.active_others(&self.path).map(Ok), [xs, &ys], ctx),
        }
    }
}
