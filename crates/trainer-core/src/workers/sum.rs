//! The sum of gradients over the passes of a step, in the order of the passes wherever they were computed.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::Workers;
use super::exchange::lost;
use super::layout::{Layout, part};
use super::sum_on_device::sum_on_device;
use crate::slices::with_slice;
use crate::{Gradients, Parameters, Result};

/// Adds the gradients of all slots, in the order of the workers' ranks and of the slots of each. `own` are the slots of this
/// worker. `missing` lists, for each worker and each of its slots, the indices of the parameters without a gradient.
///
/// The numbers of all parameters, in the order of their names, are divided among the workers. Each adds its part over all
/// slots; then the parts are gathered. So every number is added by one worker in one order, and no more bytes are sent than
/// for an all-reduce over a ring. A missing gradient is left out, because adding 0 would turn -0 into 0.
pub(crate) fn sum_in_order(
    parameters: &Parameters,
    mut own: Vec<Gradients>,
    missing: &[Vec<Vec<usize>>],
    workers: &dyn Workers,
) -> Result<Gradients> {
    if workers.count() == 1 {
        return Ok(own.pop().unwrap_or_default());
    }
    let mut devices = parameters.iter().map(|(_, variable)| variable.device());
    let first = devices.next().unwrap_or(&Device::Cpu);
    if !first.is_cpu() && devices.all(|device| device.same_device(first)) {
        return sum_on_device(parameters, own, missing, workers);
    }
    sum_on_host(parameters, own, missing, workers)
}

fn sum_on_host(
    parameters: &Parameters,
    own: Vec<Gradients>,
    missing: &[Vec<Vec<usize>>],
    workers: &dyn Workers,
) -> Result<Gradients> {
    let layout = Layout::new(parameters);
    let slots = own.iter().map(|slot| on_host(&layout, slot)).collect::<Result<Vec<_>>>()?;
    drop(own);
    let mut sums: Vec<Option<Vec<f32>>> = (0..layout.names.len())
        .map(|parameter| {
            Layout::has_gradient(missing, parameter).then(|| vec![0.0; layout.range(parameter).len()])
        })
        .collect();
    for block in layout.blocks() {
        let sum = sum_block(&layout, &slots, missing, &block, workers)?;
        layout.for_each_part(&block, |parameter, within, at| {
            if let Some(values) = &mut sums[parameter] {
                values[within].copy_from_slice(&sum[at]);
            }
            Ok(())
        })?;
    }
    let mut gradients = Gradients::new();
    for ((name, variable), values) in parameters.iter().zip(sums) {
        if let Some(values) = values {
            gradients.insert(name, Tensor::from_vec(values, variable.shape(), variable.device())?);
        }
    }
    Ok(gradients)
}

/// The sum of a block of the numbers over all slots.
fn sum_block(
    layout: &Layout,
    slots: &[Vec<Option<Tensor>>],
    missing: &[Vec<Vec<usize>>],
    block: &Range<usize>,
    workers: &dyn Workers,
) -> Result<Vec<f32>> {
    let count = workers.count();
    let mut sent = Vec::with_capacity(slots.len() * block.len());
    for rank in 0..count {
        for slot in slots {
            append(layout, slot, &part(block, rank, count), &mut sent)?;
        }
    }
    let own = part(block, workers.rank(), count);
    let to: Vec<usize> = (0..count).map(|rank| slots.len() * part(block, rank, count).len()).collect();
    let from: Vec<usize> = missing.iter().map(|slots| slots.len() * own.len()).collect();
    let received = workers.exchange(&sent, &to, &from).map_err(lost)?;
    drop(sent);

    let mut sum = vec![0f32; own.len()];
    let mut is_begun = vec![false; layout.names.len()];
    for (slot, missing) in missing.iter().flatten().enumerate() {
        let values = &received[slot * own.len()..(slot + 1) * own.len()];
        layout.for_each_part(&own, |parameter, _, at| {
            if missing.binary_search(&parameter).is_ok() {
                return Ok(());
            }
            let (sum, values) = (&mut sum[at.clone()], &values[at]);
            if std::mem::replace(&mut is_begun[parameter], true) {
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            } else {
                sum.copy_from_slice(values);
            }
            Ok(())
        })?;
    }
    let lengths: Vec<usize> = (0..count).map(|rank| part(block, rank, count).len()).collect();
    workers.gather_numbers(&sum, &lengths).map_err(lost)
}

/// The gradients of a slot in the order of the parameters, on the CPU.
fn on_host(layout: &Layout, slot: &Gradients) -> Result<Vec<Option<Tensor>>> {
    let tensor = |name: &&str| {
        let gradient = slot.get(name);
        gradient.map(|gradient| Ok(gradient.to_device(&Device::Cpu)?.contiguous()?)).transpose()
    };
    layout.names.iter().map(tensor).collect()
}

/// Appends the numbers of a slot in `range`, and 0 for those of missing gradients.
fn append(layout: &Layout, slot: &[Option<Tensor>], range: &Range<usize>, to: &mut Vec<f32>) -> Result<()> {
    layout.for_each_part(range, |parameter, within, _| {
        match &slot[parameter] {
            Some(gradient) => with_slice(gradient, |values| to.extend_from_slice(&values[within]))?,
            None => to.resize(to.len() + within.len(), 0.0),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread;

    use candle_core::{Device, Var};

    use super::*;
    use crate::ThreadWorkers;
    use crate::workers::share;

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    /// Gradients of 5 slots: `a` with -0, missing in slot 0; `b` missing everywhere; `c` in every slot.
    fn slots() -> Vec<Gradients> {
        let c = |slot: usize| tensor(&[0.1, 1e8, -1e8, 3e-8, 7.0].map(|x| x * (slot as f32 + 0.3).sin()));
        let slot = |number| {
            let mut gradients = Gradients::from_iter([("c".to_owned(), c(number))]);
            if number > 0 {
                gradients.insert("a", tensor(&[-0.0, 0.1 * number as f32, -0.0]));
            }
            gradients
        };
        (0..5).map(slot).collect()
    }

    #[test]
    fn gradients_are_added_in_the_order_of_slots_with_any_number_of_workers() {
        let shapes = BTreeMap::from([("a", 3), ("b", 2), ("c", 5)]);
        let variables = shapes
            .iter()
            .map(|(name, len)| ((*name).to_owned(), Var::from_tensor(&tensor(&vec![0.0; *len])).unwrap()));
        let parameters = Parameters::new(variables.collect::<BTreeMap<_, _>>()).unwrap();
        let names: Vec<&str> = shapes.keys().copied().collect();
        let mut expected = Gradients::new();
        slots().iter().for_each(|slot| expected.add(slot).unwrap());
        let bits = |gradients: &Gradients| -> Vec<(String, Vec<u32>)> {
            let bits =
                |gradient: &Tensor| gradient.to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
            gradients.iter().map(|(name, gradient)| (name.to_owned(), bits(gradient))).collect()
        };
        assert_eq!(bits(&expected)[0].1[0], (-0f32).to_bits(), "no 0 was added to -0");
        for count in 2..8 {
            let missing: Vec<Vec<Vec<usize>>> = (0..count)
                .map(|rank| {
                    let own = share(5, rank, count);
                    let missing = |slot: &Gradients| {
                        (0..names.len()).filter(|index| slot.get(names[*index]).is_none()).collect()
                    };
                    slots()[own].iter().map(missing).collect()
                })
                .collect();
            let add = |workers: ThreadWorkers| {
                let own = || slots()[workers.share(5)].to_vec();
                [sum_on_host, sum_on_device].map(|sum| sum(&parameters, own(), &missing, &workers).unwrap())
            };
            let sums: Vec<[Gradients; 2]> = thread::scope(|scope| {
                let threads: Vec<_> = ThreadWorkers::new(count)
                    .into_iter()
                    .map(|workers| scope.spawn(|| add(workers)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            sums.iter().flatten().for_each(|sum| assert_eq!(bits(sum), bits(&expected), "{count} workers"));
        }
    }
}
