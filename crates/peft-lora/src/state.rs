use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use train_ops::{ForwardContext, FrozenLinear, Shared};

use crate::layer_adapter::LayerAdapter;
use crate::update::Added;
use crate::weights::AdapterWeights;
use crate::{BASE_ADAPTER, Error, Result};

/// The state of all adapters during one pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) adapters: BTreeMap<String, Arc<AdapterWeights>>,
    /// The names of the active adapters, in the order in which they are applied.
    pub(crate) active: Vec<String>,
    /// The layers with the active adapters merged into their weights, by path.
    pub(crate) merged: Option<Arc<BTreeMap<String, FrozenLinear>>>,
}

impl State {
    /// The effect of the active adapters on a layer.
    pub(crate) fn active_on<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a LayerAdapter> {
        let active = self.active.iter().filter_map(|name| self.adapters.get(name));
        active.filter_map(move |adapter| adapter.layers.get(path))
    }

    /// The addition of the active adapters to an embedding or a convolution.
    pub(crate) fn active_others<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Added> {
        let active = self.active.iter().filter_map(|name| self.adapters.get(name));
        active.filter_map(move |adapter| adapter.others.get(path))
    }

    /// The addition of the adapter of this name to an embedding or a convolution; nothing for [`BASE_ADAPTER`].
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub(crate) fn other_on(&self, name: &str, path: &str) -> Result<Option<&Added>> {
        if name == BASE_ADAPTER {
            return Ok(None);
        }
        Ok(self.adapter(name)?.others.get(path))
    }

    /// The effect of the adapter of this name on a layer; nothing for [`BASE_ADAPTER`].
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub(crate) fn adapter_on(&self, name: &str, path: &str) -> Result<Option<&LayerAdapter>> {
        if name == BASE_ADAPTER {
            return Ok(None);
        }
        Ok(self.adapter(name)?.layers.get(path))
    }

    /// The adapter of this name.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub(crate) fn adapter(&self, name: &str) -> Result<&Arc<AdapterWeights>> {
        self.adapters.get(name).ok_or_else(|| Error::UnknownAdapter {
            name: name.to_owned(),
            known: self.adapters.keys().cloned().collect(),
        })
    }
}

/// The state of a model's adapters, which its layers share.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub(crate) current: Shared<State>,
    disabled: AtomicUsize,
}

impl Default for SharedState {
    fn default() -> Self {
        Self { current: Shared::new(State::default()), disabled: AtomicUsize::new(0) }
    }
}

impl SharedState {
    /// The state for the pass `ctx`.
    pub(crate) fn in_pass(&self, ctx: &ForwardContext) -> Arc<State> {
        self.current.in_pass(ctx)
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire) > 0
    }

    pub(crate) fn disable(self: &Arc<Self>) -> Disabled {
        self.disabled.fetch_add(1, Ordering::AcqRel);
        Disabled { state: self.clone() }
    }
}

/// A guard that keeps all adapters of a model disabled until it is dropped; made by
/// [`Adapter::disable`](crate::Adapter::disable).
#[derive(Debug)]
#[must_use = "the adapters are enabled again as soon as this is dropped"]
pub struct Disabled {
    state: Arc<SharedState>,
}

impl Drop for Disabled {
    fn drop(&mut self) {
        self.state.disabled.fetch_sub(1, Ordering::AcqRel);
    }
}
