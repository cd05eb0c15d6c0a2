//! The keys of dropout on the device: those of all places of a pass in one copy.

use std::cell::RefCell;

use candle_core::cuda_backend::DeviceId;
use candle_core::{CudaDevice, Result, Tensor, bail};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::{Kernels, overwrite};

use super::inputs::is_recorded;

thread_local! {
    /// The keys of the thread's newest pass. A pass asks for those of one place after another; from the second pass on, the places
    /// are known, and all of them are copied when the first is asked for.
    static NEWEST: RefCell<Option<PassKeys>> = const { RefCell::new(None) };
}

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
///
/// # Errors
/// In the recorded run of a graph's work, if the first run had no such mask: a replay could not replace its keys.
pub(super) fn device_keys(kernels: &Kernels, mask: &DropoutMask) -> Result<Tensor> {
    match mask.origin() {
        Some((samples, place)) => NEWEST.with_borrow_mut(|newest| {
            if is_recorded() {
                let keys = newest.as_ref().filter(|keys| keys.is_of(kernels.device_id(), samples));
                return keys.and_then(|keys| keys.row(place)).unwrap_or_else(not_in_first_run);
            }
            keys_of_place(newest, kernels, mask, (samples, place))
        }),
        None if is_recorded() => not_in_first_run(),
        None => kernels.words(mask.keys()),
    }
}

fn not_in_first_run() -> Result<Tensor> {
    bail!("the work of a graph took a dropout mask in its second run that it had not in its first")
}

/// The keys of a place, from the table if it has them. Makes a new table for a new pass.
fn keys_of_place(
    newest: &mut Option<PassKeys>,
    kernels: &Kernels,
    mask: &DropoutMask,
    (samples, place): (&[u64], u64),
) -> Result<Tensor> {
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

/// The keys of passes in a recording. Dropping this forgets all places, of which the table belongs to a graph.
pub(super) struct KeysOfPasses(());

impl KeysOfPasses {
    /// Forgets all places, so that only those of the recording's first run are known after it.
    pub(super) fn forget() -> Self {
        NEWEST.set(None);
        Self(())
    }

    /// The newest pass's keys at all places that it has asked for, which later requests of that pass get from this table. `None`
    /// without dropout.
    ///
    /// # Errors
    /// If the pass was on another device.
    pub(super) fn gather(&self, device: &CudaDevice) -> Result<Option<PassKeys>> {
        let Some(keys) = NEWEST.take() else { return Ok(None) };
        if keys.kernels.device_id() != device.id() {
            bail!("the work of a graph drew dropout on another device than the graph's");
        }
        let gathered = PassKeys::new(&keys.kernels, &keys.samples, keys.places)?;
        NEWEST.set(Some(gathered.clone()));
        Ok(Some(gathered))
    }
}

impl Drop for KeysOfPasses {
    fn drop(&mut self) {
        NEWEST.set(None);
    }
}
