use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use train_ops::FrozenLinear;

use crate::adaptation::AdaptableResult;
use crate::layer::AdaptableLinear;
use crate::state::SharedState;
use crate::update::OtherBase;

/// The adapters of a model and its layers.
#[derive(Debug, Default)]
pub(crate) struct AdapterSet {
    pub(crate) state: Arc<SharedState>,
    /// The linear layers that the model still has, by path.
    layers: RwLock<BTreeMap<String, Weak<AdaptableLinear>>>,
    /// The model's embeddings and convolutions, by path.
    others: RwLock<BTreeMap<String, Weak<AdaptableResult>>>,
    /// Paths of the model's other parameters.
    parameters: RwLock<BTreeSet<String>>,
}

impl AdapterSet {
    /// Wraps a layer, so that adapters can act on it.
    pub(crate) fn add_layer(&self, base: FrozenLinear) -> Arc<AdaptableLinear> {
        let path = base.path().to_owned();
        let layer = Arc::new(AdaptableLinear::new(base, self.state.clone()));
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        layers.insert(path, Arc::downgrade(&layer));
        layer
    }

    /// Wraps an embedding or a convolution, so that adapters can act on it.
    pub(crate) fn add_other(&self, path: &str, base: OtherBase) -> Arc<AdaptableResult> {
        let layer = Arc::new(AdaptableResult::new(path, base, self.state.clone()));
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

    /// The linear layers that the model still has, without adapters, sorted by path.
    pub(crate) fn bases(&self) -> Vec<FrozenLinear> {
        let layers = self.layers.read().unwrap_or_else(PoisonError::into_inner);
        layers.values().filter_map(Weak::upgrade).map(|layer| layer.base().clone()).collect()
    }
}
