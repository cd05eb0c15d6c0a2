use cuda_kernels::TopCandidates;
use cuda_kernels::emulation::Emulator;

use super::memory::Memory;
use super::{ELEMENTS, Outcome, agrees, in_all_orders, ok, run, same, uniform};

/// Few candidates, which are taken one by one; and more than are sorted.
const ONE_BY_ONE: [[usize; 4]; 4] =
    [[2, 3001, 3008, 10], [3, 7, 7, 7], [1, 600, 600, 1], [1, 1100, 1100, 1025]];
/// The fewest and the most that are sorted, numbers that are no powers of two, and all logits of a row.
const SORTED: [[usize; 4]; 5] =
    [[2, 3001, 3008, 32], [2, 3001, 3008, 100], [1, 1100, 1100, 1024], [3, 40, 40, 40], [2, 513, 520, 513]];

/// The best of a row, many of whose logits are equal, and its log-sum-exp.
pub(crate) fn top_candidates(emulator: &Emulator) -> Outcome {
    check(emulator, &ONE_BY_ONE, |_, _, z| z)
}

/// The same for numbers of candidates that are sorted.
pub(crate) fn sorted_candidates(emulator: &Emulator) -> Outcome {
    check(emulator, &SORTED, |_, _, z| z)
}

/// Rows with NaN, which is a candidate like -infinity, and makes the log-sum-exp NaN.
pub(crate) fn candidates_beside_nan(emulator: &Emulator) -> Outcome {
    check(emulator, &ONE_BY_ONE, with_nan)
}

/// The same for numbers of candidates that are sorted.
pub(crate) fn sorted_candidates_beside_nan(emulator: &Emulator) -> Outcome {
    check(emulator, &SORTED, with_nan)
}

/// Some columns of -infinity in all rows. The first row has NaN in others, the third in all.
fn with_nan(row: usize, column: usize, z: f32) -> f32 {
    match (row, column) {
        (2, _) => f32::NAN,
        (0, column) if column.is_multiple_of(3) => f32::NAN,
        (_, column) if column.is_multiple_of(5) => f32::NEG_INFINITY,
        _ => z,
    }
}

/// For each case: rows, vocabulary, stride and number of candidates. `change` is given the row and the column of each logit.
fn check(emulator: &Emulator, cases: &[[usize; 4]], change: fn(usize, usize, f32) -> f32) -> Outcome {
    for element in ELEMENTS {
        for &[rows, vocabulary, stride, count] in cases {
            let mut z = uniform(element, 1, rows * stride);
            z.iter_mut()
                .enumerate()
                .for_each(|(i, z)| *z = change(i / stride, i % stride, (*z * 40.0).round()));
            let logits = Memory::of(element, &z);
            let results = in_all_orders(|seed| {
                let [values, ids] = [(); 2].map(|()| Memory::unwritten(4 * rows * count));
                let log_sums = Memory::unwritten(4 * rows);
                let best = TopCandidates {
                    logits: logits.pointer(),
                    values: values.pointer(),
                    ids: ids.pointer(),
                    log_sums: log_sums.pointer(),
                    rows,
                    vocabulary,
                    stride,
                    count,
                };
                run(emulator, &[ok(best.launch(element))?], seed)?;
                let ids = ids.u32s()?.into_iter().map(|id| id as f32).collect();
                Ok(vec![values.f32s()?, ids, log_sums.f32s()?])
            })?;
            let (mut values, mut ids) = (Vec::new(), Vec::new());
            for (row, log_sum) in z.chunks(stride).zip(&results[2]) {
                log_sum_agrees(*log_sum, &row[..vocabulary])?;
                let row: Vec<f32> = row[..vocabulary].iter().map(|z| z.max(f32::NEG_INFINITY)).collect();
                let mut order: Vec<usize> = (0..vocabulary).collect();
                // 0 and -0 are equal.
                order.sort_by(|a, b| (row[*b] + 0.0).total_cmp(&(row[*a] + 0.0)).then(a.cmp(b)));
                values.extend(order[..count].iter().map(|id| row[*id]));
                ids.extend(order[..count].iter().map(|id| *id as f32));
            }
            same("values", &results[0], &values)?;
            same("ids", &results[1], &ids)?;
        }
    }
    Ok(())
}

fn log_sum_agrees(got: f32, row: &[f32]) -> Outcome {
    if row.iter().any(|z| z.is_nan()) {
        return if got.is_nan() { Ok(()) } else { Err(format!("a log sum beside NaN is {got}")) };
    }
    let largest = row.iter().fold(f64::NEG_INFINITY, |largest, z| largest.max(f64::from(*z)));
    let exact = largest + row.iter().map(|z| (f64::from(*z) - largest).exp()).sum::<f64>().ln();
    agrees("log sum", &[got], &[exact], 1e-6)
}
