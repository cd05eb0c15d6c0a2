//! The reference's gradients, with which the kernels are compared, against differences of its results.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod reference;

use cuda_kernels::{AttentionSizes, VisibleKeys};
use reference::attention::Attention;
use reference::cross_entropy::CrossEntropy;
use reference::lora::Lora;
use reference::residual_norm::{norm, norm_gradient};
use reference::{plus, times};

/// Fixed values in [-1, 1) without structure.
fn values(seed: u64, count: usize) -> Vec<f64> {
    let value =
        |i: u64| (cpu_kernels::mix(cpu_kernels::mix(seed) ^ i) >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    (0..count as u64).map(value).collect()
}

/// Factors of dropout: one in four is 0.
fn factors(seed: u64, count: usize) -> Vec<f64> {
    values(seed, count).into_iter().map(|value| if value < -0.5 { 0.0 } else { 4.0 / 3.0 }).collect()
}

/// The step of the differences, and the largest error of a gradient, as a share of the largest gradient or of 1 if that is more. The
/// differences are exact up to the fifth derivative times `STEP⁴ / 30`, and to the rounding of the results, about 1e-15, by `STEP`.
const STEP: f64 = 1e-3;
const BOUND: f64 = 5e-12;

/// Compares `gradient` with differences of `f` at `xs`: of central ones over one step and over two, the combination whose error is of
/// the fourth order.
fn check(name: &str, xs: &[f64], gradient: &[f64], f: impl Fn(&[f64]) -> f64) {
    assert_eq!(xs.len(), gradient.len(), "{name}");
    let largest = gradient.iter().fold(1f64, |largest, value| largest.max(value.abs()));
    for (i, gradient) in gradient.iter().enumerate() {
        let at = |steps: f64| {
            let mut xs = xs.to_vec();
            xs[i] += steps * STEP;
            f(&xs)
        };
        let difference = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * STEP);
        let error = (difference - gradient).abs() / largest;
        assert!(error < BOUND, "{name}[{i}]: {gradient}, but {difference} by differences, off by {error:e}");
    }
}

/// The function whose gradient by the results is `dys`.
fn dot(ys: &[f64], dys: &[f64]) -> f64 {
    assert_eq!(ys.len(), dys.len());
    times(ys, dys).iter().sum()
}

fn check_attention(sizes: AttentionSizes, visible: VisibleKeys, lengths: &[u32], dropout: bool) {
    let width = sizes.heads * sizes.head_dim;
    let counts = [sizes.queries, sizes.keys, sizes.keys].map(|tokens| sizes.batch * tokens * width);
    let [q, k, v] = [0, 1, 2].map(|i| values(i as u64, counts[i]));
    // Larger queries make the probabilities differ more.
    let q: Vec<f64> = q.into_iter().map(|q| 2.0 * q).collect();
    let dcontext = values(3, counts[0]);
    let of_row = |row: usize| match dropout {
        true => factors(row as u64, sizes.keys),
        false => vec![1.0; sizes.keys],
    };
    let attention = Attention { sizes, visible, lengths, factors: &of_row };
    let loss = |inputs: [&[f64]; 3]| dot(&attention.context(inputs), &dcontext);
    let [dq, dk, dv] = attention.gradients([&q, &k, &v], &dcontext);
    let name = |of: &str| format!("{of} of {sizes:?}, {visible:?}, {lengths:?}, dropout: {dropout}");
    check(&name("dquery"), &q, &dq, |q| loss([q, &k, &v]));
    check(&name("dkey"), &k, &dk, |k| loss([&q, k, &v]));
    check(&name("dvalue"), &v, &dv, |v| loss([&q, &k, v]));
}

#[test]
fn gradients_of_attention_are_those_of_its_context() {
    let sizes = AttentionSizes { batch: 2, queries: 4, keys: 6, heads: 2, head_dim: 3 };
    let causal = VisibleKeys::CausalAfterPrefix { prefix: 2, first_query: 1 };
    for visible in [VisibleKeys::All, causal] {
        for dropout in [false, true] {
            check_attention(sizes, visible, &[], dropout);
            check_attention(sizes, visible, &[6, 3], dropout);
        }
    }
}

#[test]
fn gradients_of_residual_and_norm_are_those_of_their_results() {
    let (rows, features, eps) = (3, 5, 1e-5);
    let count = rows * features;
    let [x, r, dy, direct] = [1, 2, 3, 4].map(|seed| values(seed, count));
    let [w, b] = [5, 6].map(|seed| values(seed, features));
    let factors = factors(7, count);
    let sums = |x: &[f64], r: &[f64]| plus(r, &times(x, &factors));
    // The sums are a result too, with a gradient that does not come through the norm.
    let loss = |sums: &[f64]| dot(&norm(sums, [&w, &b], eps), &dy) + dot(sums, &direct);
    let dsums = plus(&norm_gradient(&sums(&x, &r), &w, eps, &dy), &direct);
    check("dresidual", &r, &dsums, |r| loss(&sums(&x, r)));
    check("dxs", &x, &times(&dsums, &factors), |x| loss(&sums(x, &r)));
}

#[test]
fn gradients_of_cross_entropy_are_those_of_its_losses() {
    let (vocabulary, stride, none) = (7, 9, u32::MAX);
    let targets = [6, none, 0];
    let logits: Vec<f64> = values(1, targets.len() * stride).into_iter().map(|z| 4.0 * z).collect();
    let bias = values(2, vocabulary);
    for smoothing in [0.0, 0.1] {
        for bias in [None, Some(&bias[..])] {
            let of = CrossEntropy { targets: &targets, none, vocabulary, stride, bias, smoothing };
            check("dlogits", &logits, &of.gradients(&logits), |logits| of.losses(logits).iter().sum());
        }
    }
}

#[test]
fn gradients_of_an_adapter_are_those_of_its_result() {
    let (rows, in_features, out_features, rank) = (5, 4, 6, 3);
    let (x, dy) = (values(1, rows * in_features), values(2, rows * out_features));
    let (a, b) = (values(3, rank * in_features), values(4, out_features * rank));
    let factors = factors(5, x.len());
    let of = Lora { a: &a, b: &b, factors: &factors, scale: 1.5, rows, in_features, out_features, rank };
    let added = |of: &Lora<'_>, x: &[f64]| dot(&of.added(&of.hidden(x)), &dy);
    let gradients = of.gradients(&x, &dy);
    check("dxs", &x, &gradients.xs, |x| added(&of, x));
    check("dh", &of.hidden(&x), &gradients.hidden, |h| dot(&of.added(h), &dy));
    check("dA", &a, &gradients.a, |a| added(&Lora { a, ..of }, &x));
    check("dB", &b, &gradients.b, |b| added(&Lora { b, ..of }, &x));
}
