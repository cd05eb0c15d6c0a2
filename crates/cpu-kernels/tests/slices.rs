//! The functions on slices: the same bits on every instruction set, and values against f64.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use common::{instruction_sets, values};
use cpu_kernels::{
    AdamWScalars, AdamWState, DropoutMask, Gathered, Isa, adamw, add, gathered_dots, gathered_sum, gelu,
    gelu_gradient, gelu_tanh, gelu_tanh_gradient, log_sum_exp, normalise, normalise_gradient, probabilities,
    quick_gelu, quick_gelu_gradient, rms_normalise, rms_normalise_gradient, scaled_adamw, silu,
    silu_gradient, softmax, softmax_gradient,
};

/// Lengths around multiples of every vector's.
const LENGTHS: [usize; 9] = [1, 3, 15, 16, 17, 31, 33, 64, 101];

/// All results of one function for one length.
type Results = Vec<f32>;
type Function = Box<dyn Fn(Isa, usize) -> Results>;

fn elementwise(f: fn(Isa, &[f32], &mut [f32])) -> impl Fn(Isa, usize) -> Results {
    move |isa, n| {
        let mut ys = vec![0.0; n];
        f(isa, &values(1, n).iter().map(|x| 6.0 * x).collect::<Vec<_>>(), &mut ys);
        ys
    }
}

fn gradient(f: fn(Isa, &[f32], &[f32], &mut [f32])) -> impl Fn(Isa, usize) -> Results {
    move |isa, n| {
        let mut dxs = vec![0.0; n];
        f(isa, &values(1, n).iter().map(|x| 6.0 * x).collect::<Vec<_>>(), &values(2, n), &mut dxs);
        dxs
    }
}

fn layer_norm(isa: Isa, n: usize) -> Results {
    let (xs, dys, weight, bias) = (values(1, 3 * n), values(2, 3 * n), values(3, n), values(4, n));
    let (mut ys, mut dxs, mut statistics) = (vec![0.0; 3 * n], vec![0.0; 3 * n], [[0.0; 2]; 3]);
    normalise(isa, &xs, &weight, &bias, 1e-5, &mut ys, &mut statistics);
    normalise_gradient(isa, &xs, &weight, &dys, &statistics, &mut dxs);
    [ys, dxs, statistics.concat()].concat()
}

fn rms_norm(isa: Isa, n: usize) -> Results {
    let (xs, dys, weight) = (values(1, 3 * n), values(2, 3 * n), values(3, n));
    let (mut ys, mut dxs, mut inverse_rms) = (vec![0.0; 3 * n], vec![0.0; 3 * n], [0.0; 3]);
    rms_normalise(isa, &xs, &weight, 1e-5, &mut ys, &mut inverse_rms);
    rms_normalise_gradient(isa, &xs, &weight, &dys, &inverse_rms, &mut dxs);
    [ys, dxs, inverse_rms.to_vec()].concat()
}

fn softmax_and_gradient(isa: Isa, n: usize) -> Results {
    let mut results = Vec::new();
    for visible in [1, n.div_ceil(2), n] {
        let mut row = values(1, n);
        softmax(isa, &mut row, visible);
        let dropped: Vec<f32> =
            row.iter().enumerate().map(|(i, p)| if i % 3 == 0 { 0.0 } else { 1.5 * p }).collect();
        let mut gradient = values(2, n);
        softmax_gradient(isa, &row, &dropped, &mut gradient, visible, 0.25);
        results.extend([row, gradient].concat());
    }
    results
}

fn cross_entropy(isa: Isa, n: usize) -> Results {
    let mut logits = values(1, n);
    let log_sum_exp = log_sum_exp(isa, &logits);
    probabilities(isa, &mut logits, log_sum_exp, 0.01);
    logits.push(log_sum_exp);
    logits
}

fn gathered(isa: Isa, n: usize) -> Results {
    let (stride, rows) = (n + 5, 6);
    let table = values(1, rows * stride);
    let rows = Gathered::new(&table, stride, n);
    let slots = [4, 0, 5, 4];
    let (mut scores, mut sum) = (vec![0.0; slots.len()], values(3, n));
    gathered_dots(isa, &values(2, n), rows, &slots, &mut scores);
    gathered_sum(isa, &scores, rows, &slots, &mut sum);
    [scores, sum].concat()
}

const SCALARS: AdamWScalars = AdamWScalars {
    betas: [0.9, 0.99],
    rests: [0.1, 0.01],
    epsilon: 1e-8,
    decay: 0.98,
    step_size: 0.3,
    root_correction: 0.2,
};

/// Parameter, first and second moment after one update.
fn updated(n: usize, update: impl Fn(AdamWState<'_>)) -> [Vec<f32>; 3] {
    let mut exp_avg_sq = values(3, n);
    exp_avg_sq.iter_mut().for_each(|v| *v *= *v);
    let [mut parameter, mut exp_avg] = [values(1, n), values(2, n)];
    update(AdamWState { parameter: &mut parameter, exp_avg: &mut exp_avg, exp_avg_sq: &mut exp_avg_sq });
    [parameter, exp_avg, exp_avg_sq]
}

fn optimizer(isa: Isa, n: usize) -> Results {
    let gradient = values(4, n);
    let plain = updated(n, |state| adamw(isa, &SCALARS, state, &gradient));
    let scaled = updated(n, |state| scaled_adamw(isa, &SCALARS, state, &gradient, [0.3, 0.7]));
    let mut sum = values(5, n);
    add(isa, &mut sum, &gradient);
    [plain.concat(), scaled.concat(), sum].concat()
}

fn dropout(isa: Isa, n: usize) -> Results {
    DropoutMask::new(isa, vec![7, 8], 2, n, 0.4).factors(4 * n)
}

#[test]
fn all_instruction_sets_compute_the_same_bits() {
    let functions: [(&str, Function); 15] = [
        ("gelu", Box::new(elementwise(gelu))),
        ("gelu_gradient", Box::new(gradient(gelu_gradient))),
        ("quick_gelu", Box::new(elementwise(quick_gelu))),
        ("quick_gelu_gradient", Box::new(gradient(quick_gelu_gradient))),
        ("silu", Box::new(elementwise(silu))),
        ("silu_gradient", Box::new(gradient(silu_gradient))),
        ("gelu_tanh", Box::new(elementwise(gelu_tanh))),
        ("gelu_tanh_gradient", Box::new(gradient(gelu_tanh_gradient))),
        ("layer norm", Box::new(layer_norm)),
        ("rms norm", Box::new(rms_norm)),
        ("softmax", Box::new(softmax_and_gradient)),
        ("cross entropy", Box::new(cross_entropy)),
        ("gathered", Box::new(gathered)),
        ("dropout", Box::new(dropout)),
        ("adamw", Box::new(optimizer)),
    ];
    let sets = instruction_sets();
    let portable = sets.iter().find(|isa| isa.name() == "portable").unwrap();
    let bits = |results: Results| results.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (name, function) in functions {
        for n in LENGTHS {
            let expected = function(*portable, n);
            assert!(expected.iter().all(|value| value.is_finite()), "{name} {n}: {expected:?}");
            for isa in &sets {
                assert_eq!(bits(function(*isa, n)), bits(expected.clone()), "{name} {n} on {}", isa.name());
            }
        }
    }
}

#[test]
fn adamw_with_factors_is_adamw_of_the_scaled_gradient() {
    for isa in instruction_sets() {
        let mut gradient = values(4, 33);
        gradient[0] = -0.0;
        let factors = [0.3f32, 0.7];
        let scaled: Vec<f32> = gradient.iter().map(|g| (g * factors[0] + 0.0) * factors[1] + 0.0).collect();
        let expected = updated(33, |state| adamw(isa, &SCALARS, state, &scaled));
        let found = updated(33, |state| scaled_adamw(isa, &SCALARS, state, &gradient, factors));
        assert_eq!(found, expected, "{}", isa.name());
        // As torch computes the first element, whose gradient is 0.
        let [p, m, v] = [1, 2, 3].map(|seed| f64::from(values(seed, 1)[0]));
        let (m, v) = (0.9 * m, 0.99 * v * v);
        let p = 0.98 * p - 0.3 * m / (v.sqrt() / 0.2 + 1e-8);
        for (found, expected) in found.iter().zip([p, m, v]) {
            assert!((f64::from(found[0]) - expected).abs() <= 4e-7 * expected.abs(), "{found:?}: {expected}");
        }
    }
}

#[test]
fn softmax_is_that_of_f64_and_hides_what_is_not_visible() {
    for isa in instruction_sets() {
        for n in LENGTHS {
            let logits = values(1, n);
            for visible in 1..=n {
                let mut row = logits.clone();
                softmax(isa, &mut row, visible);
                let exps: Vec<f64> = logits[..visible].iter().map(|x| f64::from(*x).exp()).collect();
                let sum: f64 = exps.iter().sum();
                for (got, exp) in row.iter().zip(&exps) {
                    assert!(
                        (f64::from(*got) - exp / sum).abs() < 1e-6,
                        "{n} {visible}: {got}, not {}",
                        exp / sum
                    );
                }
                assert!(row[visible..].iter().all(|value| *value == 0.0), "{n} {visible}: {row:?}");
            }
        }
    }
}

#[test]
fn mask_bits_are_the_elements_that_a_mask_keeps() {
    for isa in instruction_sets() {
        for columns in LENGTHS {
            let (rows, ones) = (6, vec![1.0; 6 * columns]);
            let mask = DropoutMask::new(isa, vec![1, 2, 3], 2, columns, 0.4);
            // A product of ones with the mask of bits, against the mask as factors.
            let identity =
                cpu_kernels::PackedMatrix::new(isa, cpu_kernels::Precision::F32, columns, columns, |k, n| {
                    f32::from(u8::from(k == n))
                });
            let operand = cpu_kernels::Operand::plain(cpu_kernels::Rows::new(&ones, columns));
            let bits = mask.bits(rows);
            let term = cpu_kernels::Term {
                product_mask: Some(&bits),
                ..cpu_kernels::Term::new(&operand, &identity)
            };
            let mut kept = vec![0.0; ones.len()];
            cpu_kernels::product(&mut kept, columns, cpu_kernels::Init::Zero, &[term]);
            let factors = mask.factors(ones.len());
            assert!(kept.iter().zip(&factors).all(|(kept, factor)| (*kept == 1.0) == (*factor > 0.0)));
        }
    }
}
