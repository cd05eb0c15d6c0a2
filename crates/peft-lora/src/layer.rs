use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{AdaptedLinear, ForwardContext, FrozenLinear, LinearLayer};

use crate::by_sample::by_sample;
use crate::layer_adapter::{LayerAdapter, finished};
use crate::state::{SharedState, State};
use crate::update::Weights;
use crate::{Error, Result};

/// A frozen linear layer with the active adapters of its model, or with none.
#[derive(Debug)]
pub(crate) struct AdaptableLinear {
    base: FrozenLinear,
    shared: Arc<SharedState>,
}

impl AdaptableLinear {
    pub(crate) fn new(base: FrozenLinear, shared: Arc<SharedState>) -> Self {
        Self { base, shared }
    }

    /// The layer without adapters. It never changes.
    pub(crate) fn base(&self) -> &FrozenLinear {
        &self.base
    }

    fn path(&self) -> &str {
        self.base.path()
    }

    /// The merged layer that replaces base and adapters, if there is one. An error in a pass that a merged
    /// layer does not support.
    fn merged<'a>(
        &self,
        state: &'a State,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Option<&'a FrozenLinear>> {
        let Some(merged) = state.merged.as_ref().and_then(|merged| merged.get(self.path())) else {
            return Ok(None);
        };
        let action = match ctx.adapters() {
            Some(_) => "select adapters by sample",
            None if ctx.is_training() => "train",
            None => return Ok(Some(merged)),
        };
        Err(self.refused(Error::Merged { action, path: self.path().to_owned() }))
    }

    fn refused(&self, source: Error) -> train_ops::Error {
        train_ops::Error::Layer { path: self.path().to_owned(), source: Box::new(source) }
    }

    /// The layer with these adapters, one after another.
    fn forward_with<'a>(
        &self,
        adapters: impl Iterator<Item = &'a LayerAdapter>,
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let mut ys = None;
        for adapter in adapters {
            ys = Some(adapter.forward(ys, xs, ctx)?);
        }
        ys.map_or_else(|| self.base.forward(xs, ctx), Ok)
    }

    /// The layer with an adapter for each sample.
    fn forward_by_sample(
        &self,
        state: &State,
        names: &[String],
        xs: &Tensor,
        ctx: &ForwardContext,
    ) -> train_ops::Result<Tensor> {
        let compute = |name: &str, [xs]: [&Tensor; 1]| {
            let adapter = state.adapter_on(name, self.path()).map_err(|error| self.refused(error))?;
            self.forward_with(adapter.into_iter(), xs, ctx)
        };
        by_sample(names, [xs], ctx, compute, |error| self.refused(error))
    }
}

impl LinearLayer for AdaptableLinear {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        if self.shared.is_disabled() {
            return self.base.forward(xs, ctx);
        }
        let state = self.shared.in_pass(ctx);
        match (self.merged(&state, ctx)?, ctx.adapters()) {
            (Some(merged), _) => merged.forward(xs, ctx),
            (None, Some(names)) => self.forward_by_sample(&state, names, xs, ctx),
            (None, None) => self.forward_with(state.active_on(self.path()), xs, ctx),
        }
    }

    fn adapted(&self, ctx: &ForwardContext) -> train_ops::Result<Option<AdaptedLinear>> {
        if self.shared.is_disabled() {
            return self.base.adapted(ctx);
        }
        let state = self.shared.in_pass(ctx);
        if let Some(merged) = self.merged(&state, ctx)? {
            return merged.adapted(ctx);
        }
        if ctx.adapters().is_some() {
            return Ok(None);
        }
        let mut active = state.active_on(self.path());
        match (active.next(), active.next()) {
            (None, _) => self.base.adapted(ctx),
            (Some(adapter), None) => adapter.adapted(ctx),
            (Some(_), Some(_)) => Ok(None),
        }
    }

    fn for_snapshot(&self) -> train_ops::Result<Option<AdaptedLinear>> {
        let ctx = ForwardContext::inference();
        if let Some(adapted) = self.adapted(&ctx)? {
            return Ok(Some(adapted));
        }
        if ctx.adapters().is_some() {
            return Ok(None);
        }
        let state = self.shared.in_pass(&ctx);
        let merged = merged_layer(&self.base, &state).map_err(|error| self.refused(error))?;
        merged.adapted(&ctx)
    }

    fn frozen(&self) -> Option<FrozenLinear> {
        let state = self.shared.current.get();
        let is_replaced = state.active_on(self.path()).any(LayerAdapter::replaces_weight);
        (!is_replaced).then(|| self.base.clone())
    }

    fn parameters(&self) -> Vec<Tensor> {
        let state = self.shared.current.get();
        // Merged weights are copies, which no parameter changes.
        let is_merged = state.merged.as_ref().is_some_and(|merged| merged.contains_key(self.path()));
        if is_merged || self.shared.is_disabled() {
            return Vec::new();
        }
        let active = state.active_on(self.path()).flat_map(|adapter| adapter.parameters());
        active.map(|(_, variable)| variable.as_tensor().clone()).collect()
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}

/// The layer with the active adapters merged into its weight.
pub(crate) fn merged_layer(base: &FrozenLinear, state: &State) -> Result<FrozenLinear> {
    let mut weights = Weights::of(base)?;
    for adapter in state.active_on(base.path()) {
        weights = adapter.merge(weights)?;
    }
    let Weights { weight, bias } = finished(base, weights)?;
    Ok(FrozenLinear::new(base.path(), weight, bias)?)
}
