use std::collections::BTreeMap;

use candle_core::Tensor;
use train_ops::{ForwardContext, Result};

use crate::Error;

/// The results of a layer with an adapter for each sample. `compute` gets an adapter's name and those rows of
/// `inputs` that belong to samples with this name. Each sample has an equal share of the first dimension.
pub(crate) fn by_sample<const N: usize>(
    names: &[String],
    inputs: [&Tensor; N],
    ctx: &ForwardContext,
    compute: impl Fn(&str, [&Tensor; N]) -> Result<Tensor>,
    refused: impl Fn(Error) -> train_ops::Error,
) -> Result<Tensor> {
    if ctx.is_training() {
        return Err(refused(Error::AdaptersInTraining));
    }
    let shape = inputs.first().map_or(&[][..], |xs| xs.dims());
    let first = shape.first().copied().unwrap_or(0);
    if names.is_empty() || !first.is_multiple_of(names.len()) {
        return Err(refused(Error::AdapterNames { samples: names.len(), shape: shape.to_vec() }));
    }
    let per_sample = (first / names.len()) as u32;
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (sample, name) in names.iter().enumerate() {
        let begin = sample as u32 * per_sample;
        groups.entry(name).or_default().extend(begin..begin + per_sample);
    }
    if let (1, Some((name, _))) = (groups.len(), groups.first_key_value()) {
        return compute(name, inputs);
    }
    let mut parts = Vec::with_capacity(groups.len());
    for (&name, rows) in &groups {
        let rows = Tensor::new(rows.as_slice(), inputs[0].device())?;
        let mut own = Vec::with_capacity(N);
        for input in inputs {
            own.push(input.contiguous()?.index_select(&rows, 0)?);
        }
        parts.push(compute(name, std::array::from_fn(|input| &own[input]))?);
    }
    // The place of each row among the parts.
    let mut places = vec![0u32; first];
    for (place, row) in groups.values().flatten().enumerate() {
        places[*row as usize] = place as u32;
    }
    Ok(Tensor::cat(&parts, 0)?.index_select(&Tensor::new(places, inputs[0].device())?, 0)?)
}
