//! The sum of gradients that are on an accelerator: there, without the host's memory if the workers need none.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::Workers;
use super::exchange::lost;
use super::layout::{Layout, part};
use crate::{Gradients, Parameters, Result};

/// Numbers that are exchanged at a time. It limits the memory for copies of gradients.
const BLOCK: usize = 1 << 22;

/// As [`HostSum`](super::HostSum), for parameters on one device. `own` are the slots of this worker. `missing` lists, for each
/// worker and each of its slots, the indices of the parameters without a gradient.
pub(crate) fn sum_on_device(
    parameters: &Parameters,
    own: Vec<Gradients>,
    missing: &[Vec<Vec<usize>>],
    workers: &dyn Workers,
) -> Result<Gradients> {
    let layout = Layout::new(parameters);
    let Some(device) = parameters.iter().next().map(|(_, variable)| variable.device()) else {
        return Ok(Gradients::new());
    };
    let slots = own.iter().map(|slot| flat(&layout, slot)).collect::<Result<Vec<_>>>()?;
    drop(own);
    let mut sums: Vec<Vec<Tensor>> = vec![Vec::new(); layout.names.len()];
    for block in layout.blocks(BLOCK) {
        let parts = sum_block(&layout, &slots, missing, &block, workers, device)?;
        let Some(sum) = joined(&parts)? else { continue };
        layout.for_each_part(&block, |parameter, _, at| {
            if Layout::has_gradient(missing, parameter) {
                sums[parameter].push(sum.narrow(0, at.start, at.len())?);
            }
            Ok(())
        })?;
    }
    let mut gradients = Gradients::new();
    for ((name, variable), sums) in parameters.iter().zip(sums) {
        if let Some(sum) = joined(&sums)? {
            // Copied: a part may begin anywhere in a block, and kernels need a tensor that begins its own memory.
            gradients.insert(name, sum.force_contiguous()?.reshape(variable.shape())?);
        }
    }
    Ok(gradients)
}

/// The sums of a block of the numbers over all slots, as the parts that the workers have added. All slots of a worker go to another one in
/// one list.
fn sum_block(
    layout: &Layout,
    slots: &[Vec<Option<Tensor>>],
    missing: &[Vec<Vec<usize>>],
    block: &Range<usize>,
    workers: &dyn Workers,
    device: &Device,
) -> Result<Vec<Tensor>> {
    let count = workers.count();
    let to = |rank| {
        let mut pieces = Vec::new();
        for slot in slots {
            append(layout, slot, &part(block, rank, count), device, &mut pieces)?;
        }
        joined(&pieces)
    };
    let to = (0..count).map(to).collect::<Result<Vec<_>>>()?;
    let own = part(block, workers.rank(), count);
    let from: Vec<usize> = missing.iter().map(|slots| slots.len() * own.len()).collect();
    let received = workers.exchange_on_device(&to, &from, device).map_err(lost)?;
    drop(to);

    let mut sums = Vec::new();
    layout.for_each_part(&own, |parameter, _, at| {
        sums.push(sum_part(&received, missing, parameter, own.len(), &at, device)?);
        Ok(())
    })?;
    let sum = joined(&sums)?;
    let lengths: Vec<usize> = (0..count).map(|rank| part(block, rank, count).len()).collect();
    let parts = workers.exchange_on_device(&vec![sum; count], &lengths, device).map_err(lost)?;
    Ok(parts.into_iter().flatten().collect())
}

/// The sum of a part of one parameter over the slots that have a gradient of it. Slots are lists of `length` numbers, joined for
/// each worker; the part is at `at` in each.
fn sum_part(
    received: &[Option<Tensor>],
    missing: &[Vec<Vec<usize>>],
    parameter: usize,
    length: usize,
    at: &Range<usize>,
    device: &Device,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (received, missing) in received.iter().zip(missing) {
        let Some(received) = received else { continue };
        for (slot, missing) in missing.iter().enumerate() {
            if missing.binary_search(&parameter).is_ok() {
                continue;
            }
            let values = received.narrow(0, slot * length + at.start, at.len())?;
            sum = Some(match sum {
                Some(sum) => (sum + values)?,
                None => values,
            });
        }
    }
    Ok(sum.map_or_else(|| Tensor::zeros(at.len(), DType::F32, device), Ok)?)
}

/// The gradients of a slot as lists of numbers, in the order of the parameters.
fn flat(layout: &Layout, slot: &Gradients) -> Result<Vec<Option<Tensor>>> {
    let tensor =
        |name: &&str| slot.get(name).map(|gradient| Ok(gradient.contiguous()?.flatten_all()?)).transpose();
    layout.names.iter().map(tensor).collect()
}

/// Appends the numbers of a slot in `range`, and 0 for those of missing gradients.
fn append(
    layout: &Layout,
    slot: &[Option<Tensor>],
    range: &Range<usize>,
    device: &Device,
    to: &mut Vec<Tensor>,
) -> Result<()> {
    layout.for_each_part(range, |parameter, within, _| {
        to.push(match &slot[parameter] {
            Some(gradient) => gradient.narrow(0, within.start, within.len())?,
            None => Tensor::zeros(within.len(), DType::F32, device)?,
        });
        Ok(())
    })
}

/// Lists of numbers as one; `None` for no list, as devices have no empty memory.
fn joined(pieces: &[Tensor]) -> Result<Option<Tensor>> {
    Ok(if pieces.is_empty() { None } else { Some(Tensor::cat(pieces, 0)?) })
}
