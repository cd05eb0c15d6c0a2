//! The messages about a part of a block of parameters: a flag for each parameter, 1 if it has a gradient, and then the numbers, of which
//! those of missing gradients are 0.

use std::ops::Range;

use candle_core::Device;
use cpu_kernels::Isa;

use super::layout::Layout;
use crate::slices::with_slice;
use crate::{Gradients, Result};

/// The number of numbers in a message.
pub(super) fn length(layout: &Layout, part: &Range<usize>) -> Result<usize> {
    Ok(layout.parameters_in(part)? + part.len())
}

/// Appends the message of a slot's gradients.
pub(super) fn append(
    layout: &Layout,
    slot: &Gradients,
    part: &Range<usize>,
    to: &mut Vec<f32>,
) -> Result<()> {
    layout.for_each_part(part, |place, _, _| {
        to.push(if slot.get(layout.names[place]).is_some() { 1.0 } else { 0.0 });
        Ok(())
    })?;
    layout.for_each_part(part, |place, within, _| {
        match slot.get(layout.names[place]) {
            Some(gradient) => {
                let gradient = gradient.to_device(&Device::Cpu)?.contiguous()?;
                with_slice(&gradient, |values| to.extend_from_slice(&values[within]))?;
            }
            None => to.resize(to.len() + within.len(), 0.0),
        }
        Ok(())
    })
}

/// Adds the messages of all slots, to a message of the same form.
pub(super) fn add(layout: &Layout, part: &Range<usize>, received: &[f32]) -> Result<Vec<f32>> {
    let isa = Isa::active()?;
    let length = length(layout, part)?;
    let mut sum = vec![0f32; length];
    let (has_sum, sums) = sum.split_at_mut(length - part.len());
    for message in received.chunks_exact(length.max(1)) {
        let (has_gradient, values) = message.split_at(length - part.len());
        let mut flags = has_sum.iter_mut().zip(has_gradient);
        layout.for_each_part(part, |_, _, at| {
            let Some((has_sum, _)) = flags.next().filter(|(_, has_gradient)| **has_gradient == 1.0) else {
                return Ok(());
            };
            let (sum, values) = (&mut sums[at.clone()], &values[at]);
            if std::mem::replace(has_sum, 1.0) == 1.0 {
                cpu_kernels::add(isa, sum, values);
            } else {
                sum.copy_from_slice(values);
            }
            Ok(())
        })?;
    }
    Ok(sum)
}

/// Stores the numbers of a message in `sums`, which has a list for each place of a parameter in the layout.
pub(super) fn store(
    layout: &Layout,
    part: &Range<usize>,
    message: &[f32],
    sums: &mut [Option<Vec<f32>>],
) -> Result<()> {
    let (has_sum, values) = message.split_at(message.len() - part.len());
    let mut has_sum = has_sum.iter();
    layout.for_each_part(part, |place, within, at| {
        if has_sum.next() == Some(&1.0) {
            let sum = sums[place].get_or_insert_with(|| vec![0.0; layout.range(place).len()]);
            sum[within].copy_from_slice(&values[at]);
        }
        Ok(())
    })
}
