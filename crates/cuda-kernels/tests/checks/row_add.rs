use cuda_kernels::RowAdd;
use cuda_kernels::emulation::Emulator;

use super::memory::Memory;
use super::{ELEMENTS, Outcome, in_all_orders, ok, rounded, run, same, uniform};

/// Rows of which several are added to one sum and others to none; whole vectors or not; more columns than a block has threads.
pub(crate) fn row_add(emulator: &Emulator) -> Outcome {
    for element in ELEMENTS {
        for (count, columns, sum_rows) in [(9, 24, 5), (3, 7, 4), (40, 1037, 3), (0, 8, 2)] {
            let rows = uniform(element, 1, count * columns);
            let ids: Vec<u32> = (0..count).map(|i| (i * i % sum_rows) as u32).collect();
            let (row_memory, id_memory) = (Memory::of(element, &rows), Memory::of_u32(&ids));
            let results = in_all_orders(|seed| {
                let sums = Memory::unwritten_elements(element, sum_rows * columns);
                let add = RowAdd {
                    rows: row_memory.pointer(),
                    ids: id_memory.pointer(),
                    sums: sums.pointer(),
                    count,
                    columns,
                    sum_rows,
                };
                run(emulator, &[ok(add.launch(element))?], seed)?;
                Ok(vec![sums.values(element)?])
            })?;
            // In f32 and in this order, so that all bits are those of the kernel.
            let mut sums = vec![0f32; sum_rows * columns];
            for (id, row) in ids.iter().zip(rows.chunks(columns)) {
                let sums = &mut sums[*id as usize * columns..][..columns];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let sums: Vec<f32> = sums.into_iter().map(|sum| rounded(element, sum)).collect();
            same("sums", &results[0], &sums)
                .map_err(|error| format!("{element:?}, {count} rows of {columns}: {error}"))?;
        }
    }
    Ok(())
}
