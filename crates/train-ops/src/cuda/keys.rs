//! The keys of dropout on the device: those of all places of a pass in one copy.

use std::sync::{Mutex, PoisonError};

use candle_core::cuda_backend::DeviceId;
use candle_core::{Result, Tensor, bail};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::{Kernels, overwrite};

/// The keys of the newest pass. A pass asks for those of one place after another; from the second pass on, the places are known,
/// and all of them are copied when the first is asked for.
static NEWEST: Mutex<Option<PassKeys>> = Mutex::new(None);

/// Places that are remembered. A model has about one for each linear layer.
const MOST_PLACES: usize = 4096;

#[derive(Clone)]
pub(super) struct PassKeys {
    kernels: Kernels,
    samples: Vec<u64>,
    /// All known places; the first of them are rows of the table.
    places: Vec<u64>,
    /// `(places, samples)`.
    table: Option<Tensor>,
}

impl PassKeys {
    fn new(kernels: &Kernels, samples: &[u64], places: Vec<u64>) -> Result<Self> {
        let mut keys = Self { kernels: kernels.clone(), samples: samples.to_vec(), places, table: None };
        if !keys.places.is_empty() {
            let table = kernels.words(&keys.of_places(&keys.samples))?;
            keys.table = Some(table.reshape((keys.places.len(), samples.len()))?);
        }
        Ok(keys)
    }

    fn is_of(&self, device: DeviceId, samples: &[u64]) -> bool {
        self.kernels.device_id() == device && self.samples == samples
    }

    /// The keys of these samples at all places.
    fn of_places(&self, samples: &[u64]) -> Vec<u64> {
        self.places.iter().flat_map(|place| DropoutMask::place_keys(samples, *place)).collect()
    }

    /// The row of a place.
    fn row(&self, place: u64) -> Option<Result<Tensor>> {
        let table = self.table.as_ref()?;
        let row = self.places.iter().position(|known| *known == place)?;
        (row < table.dims()[0]).then(|| table.get(row))
    }

    /// Replaces the keys by those of other samples, where they are.
    pub(super) fn replace(&self, samples: &[u64]) -> Result<()> {
        if samples.len() != self.samples.len() {
            bail!(
                "a graph recorded for {} samples got {} keys of dropout",
                self.samples.len(),
                samples.len()
            );
        }
        match &self.table {
            Some(table) => {
                // Candle has no u64.
                let keys = self.of_places(samples).into_iter().map(u64::cast_signed);
                overwrite(table, &keys.collect::<Vec<_>>())
            }
            None => Ok(()),
        }
    }
}

/// The keys of a mask, one for each sample.
pub(super) fn device_keys(kernels: &Kernels, mask: &DropoutMask) -> Result<Tensor> {
    let Some((samples, place)) = mask.origin() else { return kernels.words(mask.keys()) };
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let keys = match newest.take() {
        Some(keys) if keys.is_of(kernels.device_id(), samples) => keys,
        old => {
            let known = old.filter(|old| old.kernels.device_id() == kernels.device_id());
            let places = known.map(|old| old.places).filter(|places| places.len() < MOST_PLACES);
            PassKeys::new(kernels, samples, places.unwrap_or_default())?
        }
    };
    let keys = newest.insert(keys);
    if let Some(row) = keys.row(place) {
        return row;
    }
    if !keys.places.contains(&place) {
        keys.places.push(place);
    }
    kernels.words(mask.keys())
}

/// Forgets all places.
pub(super) fn forget() {
    *NEWEST.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The newest pass's keys at all places that it has asked for, which later requests of that pass get from this table. `None` without
/// dropout.
pub(super) fn gather() -> Result<Option<PassKeys>> {
    let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(keys) = newest.take() else { return Ok(None) };
    let gathered = PassKeys::new(&keys.kernels, &keys.samples, keys.places)?;
    Ok(Some(newest.insert(gathered).clone()))
}
