//! The sum of gradients over the passes of a step, in the order of the passes wherever they were computed.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::exchange::lost;
use super::{Workers, share};
use crate::slices::with_slice;
use crate::{Gradients, Parameters, Result};

/// Numbers that are exchanged at a time. It limits the memory for copies of gradients.
const BLOCK: usize = 1 << 22;

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
    let layout = Layout::new(parameters);
    let slots = own.iter().map(|slot| layout.tensors(slot)).collect::<Result<Vec<_>>>()?;
    drop(own);
    let mut sums = layout.empty_sums(missing);
    for start in (0..layout.total).step_by(BLOCK) {
        let block = start..(start + BLOCK).min(layout.total);
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
    let part = |rank| {
        let part = share(block.len(), rank, count);
        block.start + part.start..block.start + part.end
    };
    let mut sent = Vec::with_capacity(slots.len() * block.len());
    for rank in 0..count {
        for slot in slots {
            layout.append(slot, &part(rank), &mut sent)?;
        }
    }
    let own = part(workers.rank());
    let to: Vec<usize> = (0..count).map(|rank| slots.len() * part(rank).len()).collect();
    let from: Vec<usize> = missing.iter().map(|slots| slots.len() * own.len()).collect();
    let received = workers.exchange(&sent, &to, &from).map_err(lost)?;
    drop(sent);

    let mut sum = vec![0f32; own.len()];
    let mut is_begun = vec![false; layout.starts.len()];
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
    let lengths: Vec<usize> = (0..count).map(|rank| part(rank).len()).collect();
    workers.gather_numbers(&sum, &lengths).map_err(lost)
}

/// The places of all parameters in one list of numbers, in the order of their names.
struct Layout<'a> {
    names: Vec<&'a str>,
    starts: Vec<usize>,
    total: usize,
}

impl<'a> Layout<'a> {
    fn new(parameters: &'a Parameters) -> Self {
        let (mut names, mut starts, mut total) = (Vec::new(), Vec::new(), 0);
        for (name, variable) in parameters.iter() {
            names.push(name);
            starts.push(total);
            total += variable.elem_count();
        }
        Self { names, starts, total }
    }

    fn range(&self, parameter: usize) -> Range<usize> {
        self.starts[parameter]..self.starts.get(parameter + 1).copied().unwrap_or(self.total)
    }

    /// The gradients of a slot in the order of the parameters, on the CPU.
    fn tensors(&self, slot: &Gradients) -> Result<Vec<Option<Tensor>>> {
        let tensor = |name: &&str| {
            let gradient = slot.get(name);
            gradient.map(|gradient| Ok(gradient.to_device(&Device::Cpu)?.contiguous()?)).transpose()
        };
        self.names.iter().map(tensor).collect()
    }

    /// Room for the sum of each parameter that has a gradient in any slot.
    fn empty_sums(&self, missing: &[Vec<Vec<usize>>]) -> Vec<Option<Vec<f32>>> {
        let has_gradient =
            |parameter: &usize| missing.iter().flatten().any(|slot| slot.binary_search(parameter).is_err());
        (0..self.names.len())
            .map(|parameter| has_gradient(&parameter).then(|| vec![0.0; self.range(parameter).len()]))
            .collect()
    }

    /// Calls `visit` for each parameter with numbers in `range`: with its index, the part of it that is in the range, and
    /// where that part is within the range.
    fn for_each_part(
        &self,
        range: &Range<usize>,
        mut visit: impl FnMut(usize, Range<usize>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        // The last parameter that begins at or before the range.
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        for parameter in first..self.starts.len() {
            let all = self.range(parameter);
            let (start, end) = (all.start.max(range.start), all.end.min(range.end));
            if all.start >= range.end {
                break;
            }
            if start < end {
                visit(parameter, start - all.start..end - all.start, start - range.start..end - range.start)?;
            }
        }
        Ok(())
    }

    /// Appends the numbers of a slot in `range`, and 0 for those of missing gradients.
    fn append(&self, slot: &[Option<Tensor>], range: &Range<usize>, to: &mut Vec<f32>) -> Result<()> {
        self.for_each_part(range, |parameter, within, _| {
            match &slot[parameter] {
                Some(gradient) => with_slice(gradient, |values| to.extend_from_slice(&values[within]))?,
                None => to.resize(to.len() + within.len(), 0.0),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread;

    use candle_core::Var;

    use super::*;
    use crate::ThreadWorkers;

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
                let own = slots()[workers.share(5)].to_vec();
                sum_in_order(&parameters, own, &missing, &workers).unwrap()
            };
            let sums: Vec<Gradients> = thread::scope(|scope| {
                let threads: Vec<_> = ThreadWorkers::new(count)
                    .into_iter()
                    .map(|workers| scope.spawn(|| add(workers)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            sums.iter().for_each(|sum| assert_eq!(bits(sum), bits(&expected), "{count} workers"));
        }
    }
}
