//! Products on every instruction set that the processor has, against sums in f64.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::Range;

use common::{instruction_sets, values};
use cpu_kernels::{
    DropoutMask, Init, Isa, Operand, PackedMatrix, Precision, Rows, Term, at_b, leading_dimension, mix,
    product,
};

fn round(x: f32, precision: Precision) -> f32 {
    match precision {
        Precision::F32 | Precision::Int8 => x,
        Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
    }
}

/// `init` and the sum of `terms`.
fn sum_of(rows: usize, n: usize, init: Init<'_>, terms: &[Term<'_>]) -> Vec<f32> {
    let mut result = vec![f32::NAN; rows * n];
    product(&mut result, n, init, terms);
    result
}

/// `a b + init` for rows `a`.
fn times(a: &[f32], b: &PackedMatrix, init: Init<'_>) -> Vec<f32> {
    sum_of(a.len() / b.k(), b.n(), init, &[Term::new(&Operand::new(Rows::new(a, b.k()), b), b)])
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Compares a product with sums in f64. An f32 sum of `k` terms in (-1, 1) is off by at most `k` roundings of a partial
/// sum below `k`; random signs keep it well below `k * 2^-24` times a few.
fn check(isa: Isa, precision: Precision, (rows, k, n): (usize, usize, usize)) {
    let (a, b, bias) = (values(1, rows * k), values(2, k * n), values(3, n));
    let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
    let got = times(&a, &packed, Init::Bias(&bias));
    for (index, got) in got.into_iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let exact: f64 = (0..k)
            .map(|k_| {
                let (a, b) = (round(a[row * k + k_], precision), round(b[k_ * n + column], precision));
                f64::from(a) * f64::from(b)
            })
            .sum();
        let exact = exact + f64::from(bias[column]);
        let bound = 1e-7 * (k as f64 + 1.0);
        assert!(
            (f64::from(got) - exact).abs() <= bound,
            "{isa:?} {precision:?} ({rows}, {k}, {n}) at ({row}, {column}): {got}, not {exact}"
        );
    }
}

#[test]
fn products_of_all_small_shapes_are_right_on_every_instruction_set() {
    for isa in instruction_sets() {
        for precision in PRECISIONS {
            // The last two are more rows than skinny products have on AVX2, and on AVX-512.
            for rows in (1..=2 * isa.tile_rows() + 1).chain([17, 49]) {
                for k in [1, 2, 3, 7] {
                    for n in 1..=2 * isa.panel_width() + 1 {
                        check(isa, precision, (rows, k, n));
                    }
                }
            }
        }
    }
}

#[test]
fn products_larger_than_a_block_in_every_dimension_are_right() {
    for isa in instruction_sets() {
        for precision in PRECISIONS {
            for shape in
                [(150, 5, 3), (1, 1000, 40), (3, 513, 500), (301, 1024, 17), (7, 2048, 33), (290, 511, 130)]
            {
                check(isa, precision, shape);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    for isa in instruction_sets() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            // The first shape is a skinny product in some precisions, the second in none.
            for (rows, k, n) in [(29, 1302, 70), (50, 1302, 70)] {
                let (a, b) = (values(1, rows * k), values(2, k * n));
                let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
                let all = times(&a, &packed, Init::Zero);
                for row in 0..rows {
                    let one = times(&a[row * k..][..k], &packed, Init::Zero);
                    assert_eq!(one, all[row * n..][..n], "{isa:?} {precision:?} row {row}");
                }
            }
        }
    }
}

#[test]
fn a_bf16_matrix_is_quantised_like_the_same_values_in_f32() {
    for isa in instruction_sets() {
        for (k, n) in [1, 2, 3, 5, 7, 301].into_iter().flat_map(|k| [1, 17, 33].map(|n| (k, n))) {
            let b = values(2, k * n);
            let short = PackedMatrix::new(isa, Precision::Bf16, k, n, |k, column| b[k * n + column]);
            let wide = PackedMatrix::new(isa, Precision::F32, k, n, |k, column| short.get(k, column));
            let (short, wide) = (short.quantised(), wide.quantised());
            assert_eq!(short.scales(), wide.scales(), "{isa:?} ({k}, {n})");
            for (k, n) in (0..k).flat_map(|k| (0..n).map(move |n| (k, n))) {
                assert_eq!(short.get(k, n), wide.get(k, n), "{isa:?} at ({k}, {n})");
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_a_number_stays_one_in_int8() {
    for isa in instruction_sets() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (k, n) = (9, 40);
            let mut b = values(2, k * n);
            b[4 * n + 35] = broken;
            let packed =
                PackedMatrix::new(isa, Precision::F32, k, n, |k, column| b[k * n + column]).quantised();
            let ys = times(&vec![1.0; k], &packed, Init::Zero);
            for (column, y) in ys.iter().zip(packed.scales()).map(|(sum, scale)| sum * scale).enumerate() {
                assert_eq!(y.is_finite(), column != 35, "{isa:?} {broken} in column {column}");
            }
        }
    }
}

#[test]
fn a_row_of_an_adapted_layer_does_not_depend_on_the_rows_beside_it() {
    let (rows, k, n, rank) = (50, 1302, 70, 16);
    let (a, b, bias) = (values(1, rows * k), values(2, k * n), values(3, n));
    let (hidden, up) = (values(4, rows * rank), values(5, rank * n));
    for isa in instruction_sets() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let base = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
            let up = PackedMatrix::new(isa, Precision::F32, rank, n, |k, column| up[k * n + column]);
            let adapted = |rows: Range<usize>, init: Init<'_>, result: &mut [f32]| {
                let through_base = Operand::new(Rows::new(&a[rows.start * k..rows.end * k], k), &base);
                let hidden = Operand::plain(Rows::new(&hidden[rows.start * rank..rows.end * rank], rank));
                product(result, n, init, &[Term::new(&through_base, &base), Term::new(&hidden, &up)]);
            };
            for init in [Init::Zero, Init::Bias(&bias), Init::Accumulate] {
                let before = values(6, rows * n);
                let mut all = before.clone();
                adapted(0..rows, init, &mut all);
                for count in [1, 3, 4] {
                    let mut few = before[..count * n].to_vec();
                    adapted(0..count, init, &mut few);
                    assert_eq!(few, all[..count * n], "{isa:?} {precision:?} {count} rows");
                }
            }
        }
    }
}

#[test]
fn instruction_sets_agree() {
    let (rows, k, n) = (20, 700, 50);
    let (a, b) = (values(1, rows * k), values(2, k * n));
    for precision in PRECISIONS {
        let results = instruction_sets().into_iter().map(|isa| {
            let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
            times(&a, &packed, Init::Zero)
        });
        let results: Vec<_> = results.collect();
        for result in &results {
            for (x, y) in result.iter().zip(&results[0]) {
                assert!((x - y).abs() < 1e-7 * k as f32, "{precision:?}: {x} and {y}");
            }
        }
    }
}

/// Computed with AVX-512: on x86-64 and on aarch64 a model gives the same numbers.
#[test]
fn all_sets_that_fuse_multiply_and_add_give_the_same_bits_on_every_architecture() {
    let (k, n) = (1302, 70);
    let b = values(2, k * n);
    let mut compared = 0;
    for isa in instruction_sets().into_iter().filter(|isa| isa.name() != "portable") {
        for (precision, expected) in [
            (Precision::F32, 0xb1ca_1112_8b1b_d1ff_u64),
            (Precision::Bf16, 0x51a6_efd4_c7e5_0bb8),
            (Precision::Int8, 0x2cb0_340c_45b6_4a61),
        ] {
            if precision == Precision::Bf16 && isa.has_bf16() {
                continue;
            }
            let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
            let results = [3, 29].map(|rows| times(&values(1, rows * k), &packed, Init::Zero));
            let hash = results.concat().iter().fold(0, |hash, y| mix(hash ^ u64::from(y.to_bits())));
            assert_eq!(hash, expected, "{isa:?} {precision:?}: {hash:#018x}");
            compared += 1;
        }
    }
    let fuses = cfg!(target_arch = "aarch64") || Isa::supported().len() > 1;
    assert_eq!(compared > 0, fuses, "{compared}");
}

/// Intel's manual on `TDPBF16PS`: of 32 neighbours in `k` the even and the odd products are summed, each with one rounding a
/// multiply-add, then both sums, and so on over `k`; the sum of 1,536 numbers is added to the result so far.
fn sum_of_tiles(init: f32, factors: &[(f32, f32)]) -> f32 {
    let of_tile = |factors: &[(f32, f32)]| {
        let mut halves = [0.0f32; 2];
        for (at, (a, b)) in factors.iter().enumerate() {
            halves[at % 2] = a.mul_add(*b, halves[at % 2]);
        }
        halves[0] + halves[1]
    };
    let of_pass = |factors: &[(f32, f32)]| factors.chunks(32).map(of_tile).fold(0.0, |sum, x| sum + x);
    factors.chunks(1536).map(of_pass).fold(init, |sum, x| sum + x)
}

#[test]
fn amx_has_the_roundings_of_the_manual_for_any_number_of_rows() {
    let Some(isa) = instruction_sets().into_iter().find(|isa| isa.name() == "amx") else { return };
    for (rows, k, n) in [(1, 768, 70), (2, 31, 5), (17, 33, 64), (40, 3072, 33), (250, 1601, 40)] {
        let (a, b, bias) = (values(1, rows * k), values(2, k * n), values(3, n));
        let packed = PackedMatrix::new(isa, Precision::Bf16, k, n, |k, column| b[k * n + column]);
        let got = times(&a, &packed, Init::Bias(&bias));
        for (index, got) in got.into_iter().enumerate() {
            let (row, column) = (index / n, index % n);
            let rounded = |x| round(x, Precision::Bf16);
            let factors: Vec<(f32, f32)> =
                (0..k).map(|k_| (rounded(a[row * k + k_]), rounded(b[k_ * n + column]))).collect();
            let expected = sum_of_tiles(bias[column], &factors);
            assert_eq!(got, expected, "({rows}, {k}, {n}) at ({row}, {column})");
        }
    }
}

/// Memory beside a row's numbers, used by an earlier product, must not reach its sums.
#[test]
fn numbers_beside_a_row_do_not_enter_its_product_in_bf16() {
    for isa in instruction_sets() {
        let (rows, k, n) = (50, 70, 33);
        let b = values(2, k * n);
        let packed = PackedMatrix::new(isa, Precision::Bf16, k, n, |k, column| b[k * n + column]);
        let a = values(1, rows * k);
        let expected = times(&a, &packed, Init::Zero);
        let poisoned = times(&vec![f32::NAN; rows * k], &packed, Init::Zero);
        assert!(poisoned.iter().all(|y| y.is_nan()), "{isa:?}");
        for count in [1, 17, 50] {
            assert_eq!(times(&a[..count * k], &packed, Init::Zero), expected[..count * n], "{isa:?}");
        }
    }
}

#[test]
fn a_packed_matrix_has_the_elements_that_it_was_made_of() {
    for isa in instruction_sets() {
        for precision in PRECISIONS {
            for (k, n) in [(1, 1), (5, 17), (33, 64), (2, 33)] {
                let b = values(1, k * n);
                let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
                let transposed = packed.transposed();
                for (index, b) in b.iter().enumerate() {
                    let expected = round(*b, precision);
                    assert_eq!(packed.get(index / n, index % n), expected);
                    assert_eq!(transposed.get(index % n, index / n), expected);
                }
            }
        }
    }
}

#[test]
fn masks_of_either_factor_are_those_of_dropout() {
    let isa = Isa::active().unwrap();
    // A short term without a mask of its rows is summed first in the registers of the other, any other by itself.
    for (rows, k, n, masked) in
        [(10, 200, 70, true), (10, 200, 70, false), (38, 16, 70, true), (38, 16, 70, false)]
    {
        let mask = |columns: usize| DropoutMask::new(isa, vec![17, 18], rows / 2, columns, 0.3);
        let (of_a, of_product) = (mask(k), mask(n));
        let bits = of_product.bits(rows);
        let (plain, b, c) = (values(1, rows * k), values(2, k * n), values(3, rows * n));
        let mut dropped = plain.clone();
        if masked {
            of_a.apply(&mut dropped);
        }
        for isa in instruction_sets() {
            let packed = PackedMatrix::new(isa, Precision::F32, k, n, |k, column| b[k * n + column]);
            let expected = times(&dropped, &packed, Init::Zero);
            let factors = of_product.factors(rows * n);
            for precision in PRECISIONS {
                let identity = PackedMatrix::new(isa, precision, n, n, |k, n| f32::from(u8::from(k == n)));
                let a = Operand::new(Rows::new(&plain, k), &packed);
                let through_identity = Operand::new(Rows::new(&c, n), &identity);
                let terms = [
                    Term::new(&through_identity, &identity),
                    Term {
                        a_mask: masked.then_some(&of_a),
                        product_mask: Some(&bits),
                        ..Term::new(&a, &packed)
                    },
                ];
                let got = sum_of(rows, n, Init::Zero, &terms);
                for (((got, expected), factor), c) in got.iter().zip(&expected).zip(&factors).zip(&c) {
                    let c = round(*c, precision);
                    assert_eq!(
                        *got,
                        if *factor > 0.0 { c + expected } else { c },
                        "{isa:?} {precision:?} {k}"
                    );
                }
            }
        }
    }
}

#[test]
fn transposed_products_are_right() {
    for isa in instruction_sets() {
        for (rows, r, n) in
            [(1, 1, 1), (3, 16, 40), (300, 4, 33), (70, 8, 64), (520, 17, 100), (95, 16, 256), (41, 3, 1024)]
        {
            // Rows of 1024 values have gaps between them.
            let (left, right) = (values(1, rows * r), values(2, rows * leading_dimension(n)));
            let (right, stride) = (Rows::padded(&right, n), leading_dimension(n));
            let mask = DropoutMask::new(isa, vec![17], rows, n, 0.3);
            let factors = mask.factors(rows * n);
            for bits in [None, Some(mask.bits(rows))] {
                let got = at_b(isa, (&left, r), right, bits.as_ref());
                let counts = |at: usize| bits.is_none() || factors[at] > 0.0;
                for (index, got) in got.into_iter().enumerate() {
                    let exact: f64 = (0..rows)
                        .filter(|row| counts(row * n + index % n))
                        .map(|row| (left[row * r + index / n], right.values()[row * stride + index % n]))
                        .map(|(left, right)| f64::from(left) * f64::from(right))
                        .sum();
                    assert!(
                        (f64::from(got) - exact).abs() < 1e-7 * rows as f64,
                        "{isa:?} ({rows}, {r}, {n})"
                    );
                }
            }
        }
    }
}

#[test]
fn columns_of_a_packed_matrix_give_those_columns_of_the_product_bit_for_bit() {
    let (rows, k, n) = (7, 19, 200);
    let (a, b) = (values(1, rows * k), values(2, k * n));
    for isa in instruction_sets() {
        for precision in PRECISIONS {
            let packed = PackedMatrix::new(isa, precision, k, n, |k, column| b[k * n + column]);
            let whole = times(&a, &packed, Init::Zero);
            let width = isa.panel_width();
            for columns in [0..n, 0..width, width..3 * width, 2 * width..n] {
                let part = packed.columns(columns.clone()).unwrap();
                let expected = whole.chunks(n).flat_map(|row| &row[columns.clone()]);
                let got = times(&a, &part, Init::Zero);
                assert!(got.iter().map(|x| x.to_bits()).eq(expected.map(|x| x.to_bits())), "{isa:?}");
                let quantised = part.quantised();
                let last = columns.len() - 1;
                assert!((quantised.get(k - 1, last) - part.get(k - 1, last)).abs() < 0.01);
                assert_eq!(part.transposed().get(last, k - 1), packed.get(k - 1, columns.end - 1));
            }
            assert!(packed.columns(1..n).is_none() && packed.columns(0..width - 1).is_none());
            assert!(packed.quantised().columns(0..width).is_none());
        }
    }
}
