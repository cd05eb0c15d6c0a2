use std::io::Write;
use std::sync::Once;

use rayon::ThreadPoolBuilder;

use super::*;
use crate::{DropoutMask, Init, Operand, PackedMatrix, Precision, Rows, Term, mix, product};

/// Fixed values in (-1, 1) without structure.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let key = mix(mix(seed));
    (0..count as u64).map(|i| (mix(key ^ i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// An int8 matrix and its integers, `(k, n)` row by row.
fn matrix(isa: Isa, k: usize, n: usize, seed: u64) -> (PackedMatrix, Vec<i64>) {
    let b = values(seed, k * n);
    let packed = PackedMatrix::new(isa, Precision::Int8, k, n, |k, column| b[k * n + column]);
    let integer = |i: usize| (packed.get(i / n, i % n) / packed.scales()[i % n]).round() as i64;
    let integers = (0..k * n).map(integer).collect();
    (packed, integers)
}

/// The formula of the module for one row, one number at a time: the exact sum in i64, the rest in the documented
/// order.
fn by_the_formula(row: &[f32], bias: &[f32], packed: &PackedMatrix, integers: &[i64]) -> Vec<f32> {
    let n = packed.n();
    let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let square = row.iter().map(|x| f64::from(*x / largest).powi(2)).sum::<f64>() / row.len() as f64;
    let is_outlier = |x: f32| f64::from(x.abs()) > f64::from(largest) * 6.0 * square.sqrt();
    let rest = row.iter().filter(|x| !is_outlier(**x)).fold(0.0f32, |m, x| m.max(x.abs()));
    let quantised = |x: f32| if is_outlier(x) { 0 } else { (x * (127.0 / rest)).round_ties_even() as i64 };
    (0..n)
        .map(|j| {
            let sum: i64 = row.iter().enumerate().map(|(k, x)| quantised(*x) * integers[k * n + j]).sum();
            let mut y = bias[j];
            y += ((rest / 127.0) * packed.scales()[j]) * sum as f32;
            for (k, x) in row.iter().enumerate().filter(|(_, x)| is_outlier(**x)) {
                y += x * (packed.scales()[j] * integers[k * n + j] as f32);
            }
            y
        })
        .collect()
}

fn product_of(engine: Engine, a: &[f32], b: &PackedMatrix, init: Init<'_>) -> Vec<f32> {
    let rows = QuantisedRows::for_engine(b.isa(), engine, Rows::new(a, b.k()), None);
    let mut result = vec![0.5; a.len() / b.k() * b.n()];
    int8_product(&mut result, b.n(), init, (&rows, b), None);
    result
}

/// The engines of all instruction sets. Says once, on the terminal, which these are: a test run covers no others.
fn every_engine() -> impl Iterator<Item = (Isa, Engine)> {
    static REPORT: Once = Once::new();
    REPORT.call_once(|| {
        let serves = |engine: &Engine| Isa::supported().into_iter().any(|isa| engine.serves(isa));
        let names: Vec<String> =
            Engine::ALL.into_iter().filter(serves).map(|engine| format!("{engine:?}")).collect();
        // Not `println!`, whose output the test harness captures.
        let _ = writeln!(std::io::stderr(), "engines covered: {}", names.join(", "));
    });
    let engines = |isa| {
        Engine::ALL.into_iter().filter(move |engine| engine.serves(isa)).map(move |engine| (isa, engine))
    };
    Isa::supported().into_iter().flat_map(engines)
}

fn check(rows: usize, k: usize, n: usize) {
    let (mut a, bias) = (values(7, rows * k), values(8, n));
    // Outliers in some rows, and a row with a single number that is not zero.
    for (row, a) in a.chunks_exact_mut(k).enumerate().filter(|(row, _)| row % 3 == 1) {
        a[row * 5 % k] *= 40.0;
        a[row * 11 % k] *= -31.0;
    }
    a[..k].fill(0.0);
    a[k / 2] = 3.0;
    for (isa, engine) in every_engine() {
        let (packed, integers) = matrix(isa, k, n, 9);
        let got = product_of(engine, &a, &packed, Init::Bias(&bias));
        let expected: Vec<f32> =
            a.chunks(k).flat_map(|row| by_the_formula(row, &bias, &packed, &integers)).collect();
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let place = (index / n, index % n);
            assert_eq!(
                got.to_bits(),
                expected.to_bits(),
                "{isa:?} {engine:?} ({rows}, {k}, {n}) at {place:?}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn every_engine_has_the_bits_of_the_formula_for_all_small_shapes() {
    for rows in [1, 2, 3, 8, 9, 15, 16, 17, 29, 31, 32, 33] {
        for k in [1, 2, 3, 4, 5, 63, 64, 65] {
            for n in [1, 7, 15, 16, 17, 31, 32, 33, 65] {
                check(rows, k, n);
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too slow")]
fn every_engine_has_the_bits_of_the_formula_for_products_larger_than_a_block() {
    for (rows, k, n) in [(450, 131, 70), (5, 4099, 33), (230, 1024, 40), (33, 768, 200)] {
        check(rows, k, n);
    }
}

/// The largest sums that fit 32 bits: with 128 added to each number of a row, those in the registers wrap.
#[test]
fn the_largest_sums_are_exact() {
    let (k, n) = (MAX_INT8_ROW, 3);
    for (isa, engine) in every_engine() {
        let packed = PackedMatrix::new(isa, Precision::Int8, k, n, |_, column| [1.0, -1.0, 0.0][column]);
        let got = product_of(engine, &vec![-2.0; k], &packed, Init::Zero);
        let scale = (2.0f32 / 127.0) * (1.0f32 / 127.0);
        let sum = (127 * 127 * k) as f32;
        assert_eq!(got, [-scale * sum, scale * sum, 0.0], "{engine:?}");
    }
}

#[test]
fn the_transposed_integers_are_those_of_the_matrix() {
    for isa in Isa::supported() {
        for (k, n) in [(1, 1), (5, 3), (70, 33), (64, 40)] {
            let (packed, integers) = matrix(isa, k, n, 3);
            let transposed = packed.transposed_integers();
            assert_eq!((transposed.k(), transposed.n()), (n, k));
            for (index, integer) in integers.iter().enumerate() {
                assert_eq!(transposed.get(index % n, index / n), *integer as f32);
            }
            // Rows multiplied by the scales of the matrix: the product with the transpose.
            let dys = values(4, 3 * n);
            let scaled: Vec<f32> =
                dys.iter().zip(packed.scales().iter().cycle()).map(|(dy, scale)| dy * scale).collect();
            let run = |rows: &[f32], factors| {
                let rows = QuantisedRows::new(Rows::new(rows, n), factors, &transposed);
                let mut dxs = vec![f32::NAN; 3 * k];
                int8_product(&mut dxs, k, Init::Zero, (&rows, &transposed), None);
                dxs
            };
            assert_eq!(run(&dys, Some(packed.scales())), run(&scaled, None));
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_nor_on_the_number_of_threads() {
    let (rows, k, n) = (70, 200, 90);
    let a = values(5, rows * k);
    for isa in Isa::supported() {
        let (packed, _) = matrix(isa, k, n, 6);
        let run = |a: &[f32]| {
            let rows = QuantisedRows::new(Rows::new(a, k), None, &packed);
            let mut result = values(9, a.len() / k * n);
            int8_product(&mut result, n, Init::Accumulate, (&rows, &packed), None);
            result
        };
        let all = run(&a);
        for threads in [1, 2, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| run(&a)), all, "{threads} threads");
        }
        for count in [1, 2, 9, 40] {
            assert_eq!(run(&a[..count * k]), all[..count * n], "{count} rows");
        }
    }
}

#[test]
fn a_term_in_f32_is_added_last() {
    let (k, rank) = (70, 5);
    for (isa, engine) in every_engine() {
        for (rows, n) in [(1, 3), (7, 33), (70, 90)] {
            let (packed, _) = matrix(isa, k, n, 6);
            let rows_of_a = QuantisedRows::for_engine(isa, engine, Rows::new(&values(5, rows * k), k), None);
            let b = PackedMatrix::from_rows(isa, rank, n, &values(8, rank * n), 1.0);
            let h = values(9, rows * rank);
            let operand = Operand::new(Rows::new(&h, rank), &b);
            let mask = DropoutMask::new(isa, vec![11], rows, n, 0.3).bits(rows);
            for product_mask in [None, Some(&mask)] {
                let term = Term { product_mask, ..Term::new(&operand, &b) };
                let bias = values(10, n);
                let run = |term| {
                    let mut result = vec![f32::NAN; rows * n];
                    int8_product(&mut result, n, Init::Bias(&bias), (&rows_of_a, &packed), term);
                    result
                };
                let mut apart = run(None);
                product(&mut apart, n, Init::Accumulate, &[term]);
                assert_eq!(run(Some(term)), apart, "{engine:?}");
            }
        }
    }
}

#[test]
fn rows_that_are_not_numbers_have_no_numbers_as_results_and_extreme_ones_do() {
    let k = 40;
    for isa in Isa::supported() {
        let packed = PackedMatrix::new(isa, Precision::Int8, k, 1, |_, _| 1.0);
        let with = |value: f32| {
            let mut a = vec![1.0; 2 * k];
            a[3] = value;
            product_of(Engine::of(isa, 2), &a, &packed, Init::Zero)
        };
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let got = with(value);
            assert!(got[0].is_nan() && (got[1] - 40.0).abs() < 1e-3, "{value}: {got:?}");
        }
        for scale in [1e-30f32, 1e-12, 1e30] {
            let got = product_of(Engine::of(isa, 1), &vec![scale; k], &packed, Init::Zero);
            assert!((got[0] / scale - 40.0).abs() < 1e-3, "{scale}: {got:?}");
        }
        assert_eq!(product_of(Engine::of(isa, 1), &vec![1e-40; k], &packed, Init::Zero), [0.0]);
        // All numbers but the largest are quantised to zero.
        let got = with(1e20);
        assert!((got[0] / 1e20 - 1.0).abs() < 1e-6, "{got:?}");
    }
}

#[test]
#[should_panic(expected = "a term of a product in int8 is in f32")]
fn a_term_in_bf16_is_refused_before_anything_is_computed() {
    let isa = Isa::active().unwrap();
    let (rows, k, n) = (3, 8, 40);
    let (a, (b, _)) = (values(1, rows * k), matrix(isa, k, n, 2));
    let of_term = PackedMatrix::new(isa, Precision::Bf16, k, n, |_, _| 1.0);
    let operand = Operand::new(Rows::new(&a, k), &of_term);
    let quantised = QuantisedRows::for_engine(isa, Engine::of(isa, rows), Rows::new(&a, k), None);
    let term = Some(Term::new(&operand, &of_term));
    int8_product(&mut vec![0.0; rows * n], n, Init::Zero, (&quantised, &b), term);
}
