use std::cell::RefCell;
use std::collections::VecDeque;

use candle_core::{Device, Result, Tensor, bail};
use cuda_kernels::device::overwrite;

thread_local! {
    static RECORDING: RefCell<Recording> = const { RefCell::new(Recording::None) };
}

/// The part of a recording in which a thread calls [`host_numbers`].
enum Recording {
    None,
    /// The first run of a graph's work: keeps the tensors.
    Collecting(Vec<Tensor>),
    /// The second run: returns them.
    Using(VecDeque<Tensor>),
}

/// Numbers of a batch as a tensor on a device. In the work of a [`DeviceGraph`](super::DeviceGraph) they are an input, which each
/// replay replaces.
///
/// # Errors
/// If the device has no memory, or a graph's work takes other numbers of them when it runs again.
pub fn host_numbers(numbers: &[u32], device: &Device) -> Result<Tensor> {
    RECORDING.with_borrow_mut(|recording| match recording {
        Recording::None => Tensor::new(numbers, device),
        Recording::Collecting(tensors) => {
            let tensor = Tensor::new(numbers, device)?;
            tensors.push(tensor.clone());
            Ok(tensor)
        }
        Recording::Using(tensors) => match tensors.pop_front() {
            Some(tensor) if tensor.dims() == [numbers.len()] => Ok(tensor),
            _ => bail!("the work of a graph took other numbers in its second run: {} of them", numbers.len()),
        },
    })
}

/// Whether this thread runs the work of a graph for the second time, recording it.
pub(super) fn is_recorded() -> bool {
    RECORDING.with_borrow(|recording| matches!(recording, Recording::Using(_)))
}

/// The numbers that the work of a graph takes from the host; the thread records until this is dropped.
pub(super) struct Inputs(());

impl Inputs {
    pub(super) fn collect() -> Self {
        RECORDING.set(Recording::Collecting(Vec::new()));
        Self(())
    }

    /// Ends the first run. Returns its tensors, which the second run gets again.
    pub(super) fn reuse(&self) -> Vec<Tensor> {
        let Recording::Collecting(tensors) = RECORDING.replace(Recording::None) else { return Vec::new() };
        RECORDING.set(Recording::Using(tensors.clone().into()));
        tensors
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        RECORDING.set(Recording::None);
    }
}

/// Replaces the values of all inputs, one after the other.
pub(super) fn replace(inputs: &[Tensor], numbers: &[u32]) -> Result<()> {
    let expected: usize = inputs.iter().map(Tensor::elem_count).sum();
    if numbers.len() != expected {
        bail!("a graph that takes {expected} numbers got {}", numbers.len());
    }
    let mut rest = numbers;
    for input in inputs {
        let (numbers, others) = rest.split_at(input.elem_count());
        rest = others;
        overwrite(input, numbers)?;
    }
    Ok(())
}
