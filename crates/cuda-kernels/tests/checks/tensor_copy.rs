use cuda_kernels::TensorCopy;
use cuda_kernels::emulation::Emulator;

use super::memory::Memory;
use super::{Outcome, in_all_orders, ok, run, same};

/// Tensors of different sizes, in one launch or several: less than a vector, not whole vectors, more than a piece of a block.
pub(crate) fn tensor_copy(emulator: &Emulator) -> Outcome {
    for sizes in [vec![1], vec![3, 4, 0, 5], vec![4096, 4097, 12_001], (0..35).map(|i| 7 * i).collect()] {
        let values: Vec<Vec<u32>> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| (0..*size).map(|at| 1000 * i as u32 + at).collect())
            .collect();
        let from: Vec<Memory> = values.iter().map(|values| Memory::of_u32(values)).collect();
        let results = in_all_orders(|seed| {
            let to: Vec<Memory> = values.iter().map(|values| Memory::unwritten(4 * values.len())).collect();
            let copy = |((from, to), values): ((&Memory, &Memory), &Vec<u32>)| TensorCopy {
                from: from.pointer(),
                to: to.pointer(),
                bytes: 4 * values.len(),
            };
            let tensors: Vec<TensorCopy> = from.iter().zip(&to).zip(&values).map(copy).collect();
            run(emulator, &ok(TensorCopy::launches(&tensors))?, seed)?;
            let copied = to.iter().map(Memory::u32s).collect::<Result<Vec<_>, _>>()?;
            Ok(vec![copied.concat().iter().map(|value| *value as f32).collect()])
        })?;
        let expected: Vec<f32> = values.concat().iter().map(|value| *value as f32).collect();
        same("copies", &results[0], &expected)?;
    }
    let memory = Memory::of_u32(&[0; 8]);
    let (from, to) = (memory.pointer(), cuda_kernels::Pointer(memory.pointer().0 + 4));
    match TensorCopy::launches(&[TensorCopy { from, to, bytes: 4 }]) {
        Err(error) if error.to_string().contains("multiples of 16") => Ok(()),
        other => Err(format!("a place that is not aligned is refused: {other:?}")),
    }
}
