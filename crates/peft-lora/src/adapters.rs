use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::files::AdapterFiles;
use crate::matching::Targets;
use crate::set::AdapterSet;
use crate::state::State;
use crate::weights::AdapterWeights;
use crate::{Adapter, BASE_ADAPTER, Error, LoraConfig, Result};

/// All adapters of a model, by name. One or several of them are active, and the layers use these.
///
/// [`Adapter::adapters`] of any of them returns this handle. Every change takes effect for all layers at once:
/// a pass ([`ForwardContext`](train_ops::ForwardContext)) that has begun keeps the adapters that it began with.
///
/// ```no_run
/// # fn example(adapter: peft_lora::Adapter) -> peft_lora::Result<()> {
/// let adapters = adapter.adapters(); // the model was built with `default`
/// adapters.load("pokemon", "runs/pokemon/adapter")?;
/// adapters.activate(["pokemon"])?;
/// adapters.hot_swap("pokemon", "runs/pokemon-2/adapter")?; // passes see all old weights or all new ones
/// adapters.activate(["default", "pokemon"])?; // the sum of both
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Adapters {
    pub(crate) set: Arc<AdapterSet>,
    base_parameters: usize,
}

impl Adapters {
    pub(crate) fn new(set: Arc<AdapterSet>, base_parameters: usize) -> Self {
        Self { set, base_parameters }
    }

    /// The names of all adapters, sorted.
    pub fn names(&self) -> Vec<String> {
        self.set.state.current.get().adapters.keys().cloned().collect()
    }

    /// The names of the active adapters, in the order in which they are applied.
    pub fn active(&self) -> Vec<String> {
        self.set.state.current.get().active.clone()
    }

    /// The adapter of this name.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`].
    pub fn get(&self, name: &str) -> Result<Adapter> {
        Ok(self.handle(name, self.set.state.current.get().adapter(name)?.clone()))
    }

    /// Adds a new adapter, which is not active yet, with initial weights from `seed`.
    ///
    /// # Errors
    /// [`Error::AdapterExists`], [`Error::ReservedName`], those of an invalid configuration, and [`Error::NothingSelected`] if it
    /// selects no layer of the model.
    pub fn add(&self, name: &str, config: &LoraConfig, seed: u64) -> Result<Adapter> {
        let weights = self.new_weights(config, seed)?;
        self.insert(name, weights)
    }

    /// Adds the adapter in the folder `dir`, which is not active yet.
    ///
    /// # Errors
    /// As [`add`](Self::add), and those of damaged files or tensors that do not fit.
    pub fn load(&self, name: &str, dir: impl AsRef<Path>) -> Result<Adapter> {
        let weights = self.read(dir.as_ref())?;
        self.insert(name, weights)
    }

    /// Makes these adapters the active ones, and no others. They are applied one after another. Without any,
    /// the layers are those of the base model.
    ///
    /// # Errors
    /// - [`Error::UnknownAdapter`], [`Error::Merged`].
    /// - [`Error::TrainedTwice`] if two of them replace the same layer or bias.
    pub fn activate<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let active: Vec<String> = names.into_iter().map(str::to_owned).collect();
        self.set.state.current.update(|state| {
            state.check_unmerged("activate adapters")?;
            State { active, ..state.clone() }.checked()
        })
    }

    /// Replaces the adapter `name` by the one in the folder `dir`, which may have other targets, ranks and
    /// scales. A pass that runs meanwhile, on any thread, uses the old weights in all layers; a pass that
    /// begins later uses the new ones.
    ///
    /// Handles on the old adapter, and the variables of an optimizer, keep the old weights: use the returned
    /// handle.
    ///
    /// # Errors
    /// As [`load`](Self::load); then the old adapter stays. [`Error::Merged`] while it is merged.
    pub fn hot_swap(&self, name: &str, dir: impl AsRef<Path>) -> Result<Adapter> {
        let weights = Arc::new(self.read(dir.as_ref())?);
        self.set.state.current.update(|state| {
            state.check_unmerged("replace adapters")?;
            state.adapter(name)?.check_outside(name)?;
            let mut adapters = state.adapters.clone();
            adapters.insert(name.to_owned(), weights.clone());
            State { adapters, ..state.clone() }.checked()
        })?;
        Ok(self.handle(name, weights))
    }

    /// Removes an adapter, and deactivates it.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`], and [`Error::Merged`] while adapters are merged.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.set.state.current.update(|state| {
            state.check_unmerged("remove adapters")?;
            state.adapter(name)?.check_outside(name)?;
            let mut state = state.clone();
            state.adapters.remove(name);
            state.active.retain(|active| active != name);
            Ok(state)
        })
    }

    fn handle(&self, name: &str, weights: Arc<AdapterWeights>) -> Adapter {
        Adapter::new(name, weights, self.set.clone(), self.base_parameters)
    }

    pub(crate) fn insert(&self, name: &str, weights: AdapterWeights) -> Result<Adapter> {
        if name == BASE_ADAPTER {
            return Err(Error::ReservedName { name: name.to_owned() });
        }
        let weights = Arc::new(weights);
        self.set.state.current.update(|state| {
            let mut adapters = state.adapters.clone();
            match adapters.insert(name.to_owned(), weights.clone()) {
                None => Ok(State { adapters, ..state.clone() }),
                Some(_) => Err(Error::AdapterExists { name: name.to_owned() }),
            }
        })?;
        Ok(self.handle(name, weights))
    }

    fn read(&self, dir: &Path) -> Result<AdapterWeights> {
        let files = AdapterFiles::read(dir)?;
        let weights = self.new_weights(&files.config, 0)?;
        weights.restore(&files)?;
        Ok(weights)
    }

    /// A new adapter of the layers that the model still has.
    pub(crate) fn new_weights(&self, config: &LoraConfig, seed: u64) -> Result<AdapterWeights> {
        let (targets, bases) = (Targets::new(config)?, self.set.bases());
        if let Some(parameter) = self.set.parameter_where(|path| targets.trains_parameter(path)) {
            let action = "the adapter cannot be added to a model".to_owned();
            return Err(Error::OutsideLayers { action, parameter });
        }
        let others = self.set.others();
        let weights = AdapterWeights::new(config, &targets, bases, others, BTreeMap::new(), seed)?;
        if weights.layers.is_empty() && weights.others.is_empty() {
            return Err(Error::NothingSelected);
        }
        Ok(weights)
    }
}

impl State {
    /// The state, if its active adapters exist and do not replace the same parameter.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`] and [`Error::TrainedTwice`].
    fn checked(self) -> Result<Self> {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for name in &self.active {
            for parameter in self.adapter(name)?.replaced() {
                if let Some(first) = owners.insert(parameter.clone(), name) {
                    let adapters = [first.to_owned(), name.clone()];
                    return Err(Error::TrainedTwice { parameter, adapters });
                }
            }
        }
        Ok(self)
    }

    /// # Errors
    /// [`Error::Merged`].
    pub(crate) fn check_unmerged(&self, action: &'static str) -> Result<()> {
        let Some(merged) = &self.merged else { return Ok(()) };
        let path = merged.keys().next().cloned().unwrap_or_else(|| "the model".to_owned());
        Err(Error::Merged { action, path })
    }
}
