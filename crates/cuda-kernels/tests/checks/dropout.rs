use cuda_kernels::Dropout;
use cuda_kernels::emulation::Emulator;

use super::memory::Memory;
use super::{ELEMENTS, Outcome, TestMask, in_all_orders, ok, rounded, run, same, uniform};

/// Masks are those of the CPU, bit for bit.
pub(crate) fn dropout(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (samples, rows, columns) in [(1, 3, 768), (3, 6, 300), (2, 4, 7), (5, 5, 1), (0, 2, 16)] {
            let xs = uniform(element, 1, rows * columns);
            let mask = TestMask::new(samples, rows, columns, 0.3);
            let factors = mask.factors(rows, columns);
            let expected: Vec<f32> = xs.iter().zip(&factors).map(|(x, f)| rounded(element, x * f)).collect();
            for input in [Memory::of(element, &xs), Memory::unaligned(element, &xs)] {
                let results = in_all_orders(|seed| {
                    let ys = Memory::unwritten_elements(element, xs.len());
                    let dropout =
                        Dropout { xs: input.pointer(), ys: ys.pointer(), rows, columns, mask: mask.mask };
                    run(emulator, &[ok(dropout.launch(element))?], seed)?;
                    Ok(vec![ys.values(element)?])
                })?;
                same("dropout", &results[0], &expected)?;
            }
        }
    }
    Ok(())
}
