use cuda_kernels::emulation::Emulator;
use cuda_kernels::{Element, Pointer, RowCopy};

use super::memory::Memory;
use super::{ELEMENTS, Outcome, in_all_orders, ok, run, same, uniform};

/// Rows from places in no order, in one launch or several, aligned for 16 bytes or not.
pub(crate) fn row_copy(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (rows, elements) in [(3, 2056), (1, 7), (70, 24), (33, 1)] {
            one(emulator, element, rows, elements)
                .map_err(|error| format!("{element:?}, {rows} of {elements}: {error}"))?;
        }
    }
    Ok(())
}

fn one(emulator: &Emulator, element: Element, rows: usize, elements: usize) -> Outcome {
    let values: Vec<Vec<f32>> = (0..rows as u64).map(|row| uniform(element, row, elements)).collect();
    let places: Vec<Memory> = values.iter().rev().map(|values| Memory::of(element, values)).collect();
    let from: Vec<Pointer> = places.iter().rev().map(Memory::pointer).collect();
    let results = in_all_orders(|seed| {
        let to = Memory::unwritten(4 * rows * elements);
        let copy = RowCopy { from: &from, to: to.pointer(), elements };
        run(emulator, &ok(copy.launches(element))?, seed)?;
        Ok(vec![to.f32s()?])
    })?;
    same("rows", &results[0], &values.concat())
}
