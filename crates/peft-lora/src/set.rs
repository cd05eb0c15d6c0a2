use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use train_ops::{ForwardContext, FrozenLinear, Shared};

use crate::adaptation::AdaptableResult;
use crate::layer::AdaptableLinear;
use crate::layer_adapter::LayerAdapter;
use crate::update::{Added, OtherBase};
use crate::weights::AdapterWeights;
use crate::{BASE_ADAPTER, Error, Result};

/// The adapters of a model and its layers. The layers refer to it.
#[derive(Debug)]
pub(crate) struct AdapterSet {
    pub(crate) state: Shared<State>,
    disabled: AtomicUsize,
    /// The linear layers that the model still has, by path.
    layers: RwLock<BTreeMap<String, Weak<AdaptableLinear>>>,
    /// The model's embeddings and convolutions, by path.
    others: RwLock<BTreeMap<String, Weak<AdaptableResult>>>,
    /// Paths of the model's other parameters.
    parameters: RwLock<BTreeSet<String>>,
}

/// The adapters as one pass sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) adapters: BTreeMap<String, Arc<AdapterWeights>>,
    /// The names of those that act, one after another.
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

impl Default for AdapterSet {
    fn default() -> Self {
        Self {
            state: Shared::new(State::default()),
            disabled: AtomicUsize::new(0),
            layers: RwLock::default(),
            others: RwLock::default(),
            parameters: RwLock::default(),
        }
    }
}

impl AdapterSet {
    /// The state that the pass sees.
    pub(crate) fn in_pass(&self, ctx: &ForwardContext) -> Arc<State> {
        self.state.in_pass(ctx)
    }

    /// Wraps a layer, so that adapters can act on it.
    pub(crate) fn add_layer(self: &Arc<Self>, base: FrozenLinear) -> Arc<AdaptableLinear> {
        let path = base.path().to_owned();
        let layer = Arc::new(AdaptableLinear::new(base, self.clone()));
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.insert(path, Arc::downgrade(&layer));
        layer
    }

    /// Makes an embedding or a convolution one that adapters can act on.
    pub(crate) fn add_other(self: &Arc<Self>, path: &str, base: OtherBase) -> Arc<AdaptableResult> {
        let layer = Arc::new(AdaptableResult::new(path, base, self.clone()));
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.insert(path.to_owned(), Arc::downgrade(&layer));
        layer
    }

    /// The embeddings and convolutions that the model still has, without adapters.
    pub(crate) fn others(&self) -> BTreeMap<String, OtherBase> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        let layers = others.iter().filter_map(|(path, layer)| Some((path.clone(), layer.upgrade()?)));
        layers.map(|(path, layer)| (path, layer.base.clone())).collect()
    }

    /// Records a parameter outside the linear layers.
    pub(crate) fn add_parameter(&self, path: &str) {
        self.parameters.write().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    }

    /// The first parameter outside the linear layers for which `condition` holds.
    pub(crate) fn parameter_where(&self, condition: impl Fn(&str) -> bool) -> Option<String> {
        let parameters = self.parameters.read().unwrap_or_else(PoisonError::into_inner);
        parameters.iter().find(|path| condition(path)).cloned()
    }

    /// The linear layers without adapters, those that the model still has, sorted by path.
    pub(crate) fn bases(&self) -> Vec<FrozenLinear> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.values().filter_map(Weak::upgrade).map(|layer| layer.base().clone()).collect()
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire) > 0
    }

    pub(crate) fn disable(self: &Arc<Self>) -> Disabled {
        self.disabled.fetch_add(1, Ordering::AcqRel);
        Disabled { set: self.clone() }
    }
}

/// A guard that keeps all adapters of a model disabled until it is dropped; made by
/// [`Adapter::disable`](crate::Adapter::disable).
#[derive(Debug)]
#[must_use = "the adapters are enabled again as soon as this is dropped"]
pub struct Disabled {
    set: Arc<AdapterSet>,
}

impl Drop for Disabled {
    fn drop(&mut self) {
        self.set.disabled.fetch_sub(1, Ordering::AcqRel);
    }
}
