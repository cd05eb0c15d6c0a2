//! Values sent between workers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Workers;
use crate::{BoxError, Error, Parameters, Result};

pub(crate) fn lost(source: BoxError) -> Error {
    Error::Workers { source }
}

/// The values of all workers, by rank.
pub(crate) fn gather_json<V: Serialize + DeserializeOwned>(
    workers: &dyn Workers,
    value: &V,
) -> Result<Vec<V>> {
    let message = serde_json::to_vec(value).map_err(|error| lost(error.into()))?;
    let messages = workers.gather(&message).map_err(lost)?;
    messages
        .iter()
        .map(|message| serde_json::from_slice(message).map_err(|error| lost(error.into())))
        .collect()
}

/// The value of worker 0.
pub(crate) fn share_json<V: Serialize + DeserializeOwned>(workers: &dyn Workers, value: &V) -> Result<V> {
    let message = match workers.rank() {
        0 => serde_json::to_vec(value).map_err(|error| lost(error.into()))?,
        _ => Vec::new(),
    };
    let messages = workers.gather(&message).map_err(lost)?;
    let message = messages.first().map_or(&[][..], Vec::as_slice);
    serde_json::from_slice(message).map_err(|error| lost(error.into()))
}

/// Sets all parameters to the values that they have on worker 0.
pub(crate) fn share_numbers(workers: &dyn Workers, parameters: &Parameters) -> Result<()> {
    if workers.count() == 1 {
        return Ok(());
    }
    for (_, variable) in parameters.iter() {
        let mut lengths = vec![0; workers.count()];
        lengths[0] = variable.elem_count();
        let own = match workers.rank() {
            0 => variable.as_detached_tensor().flatten_all()?.to_vec1()?,
            _ => Vec::new(),
        };
        let values = workers.gather_numbers(&own, &lengths).map_err(lost)?;
        variable.set(&candle_core::Tensor::from_vec(values, variable.shape(), variable.device())?)?;
    }
    Ok(())
}
