//! Layers with an adapter.

use candle_core::{Tensor, Var};
use train_ops::{Dropout, FrozenLinear, LoraWeights, backward, lora_linear, recompute};

use crate::common::{Frozen, ONE, Parameter, Trained, check, constant, gpu, list, training, values};

/// A layer, and an input of two samples.
#[derive(Clone, Copy)]
struct Sizes {
    rows_per_sample: usize,
    n_in: usize,
    n_out: usize,
    rank: usize,
}

/// With and without dropout, and with and without a gradient of the input.
fn check_adapter(Sizes { rows_per_sample, n_in, n_out, rank }: Sizes) {
    let (xs, a, b) = (&[2, rows_per_sample, n_in][..], &[rank, n_in][..], &[n_out, rank][..]);
    for p in [0.0, 0.4] {
        let dropout = Dropout::new("base", p).unwrap();
        for kind in [Trained, Frozen] {
            let name =
                format!("{rows_per_sample} rows of a sample, {n_in} to {n_out}, rank {rank}, dropout {p}");
            check(&name, &[(kind, 1, xs), (Parameter, 2, a), (Parameter, 3, b)], ONE, |x| {
                let bias = Some(constant(5, &[n_out], &x[0]));
                let base = FrozenLinear::new("base", constant(4, &[n_out, n_in], &x[0]), bias).unwrap();
                let lora = LoraWeights { a: &x[1], b: &x[2], scale: 1.5, dropout: &dropout };
                lora_linear(&x[0], &base, lora, &training()).unwrap()
            });
        }
    }
}

#[test]
fn adapters_with_and_without_dropout_and_a_gradient_of_the_input() {
    for (n_in, n_out, rank) in [(5, 4, 2), (48, 64, 16)] {
        check_adapter(Sizes { rows_per_sample: 7, n_in, n_out, rank });
    }
}

/// Ranks up to 16 and up to 64 have a kernel each, of 4 or 8 warps with 64 columns. Blocks share the results of a row, because there are
/// few rows. Rows are read 16 bytes at a time, and one element at a time.
#[test]
fn adapters_over_several_tiles_of_columns() {
    for rank in [9, 40] {
        check_adapter(Sizes { rows_per_sample: 10, n_in: 600, n_out: 72, rank });
        check_adapter(Sizes { rows_per_sample: 10, n_in: 73, n_out: 601, rank });
    }
}

/// So many tiles of 16 rows that each block has all results of its rows, in several steps. The gradients of A and B are sums of several
/// parts of 256 rows.
#[test]
fn adapters_over_several_tiles_of_rows() {
    for rank in [9, 40] {
        check_adapter(Sizes { rows_per_sample: 520, n_in: 24, n_out: 520, rank });
    }
}

/// Candle's operations compute ranks that no kernel has.
#[test]
fn adapters_of_a_rank_above_64() {
    for rank in [64, 65] {
        check_adapter(Sizes { rows_per_sample: 7, n_in: 20, n_out: 24, rank });
    }
}

/// Two layers share a matrix, and one of them is in a segment that the backward pass computes again.
#[test]
fn gradients_put_into_the_store_are_those_that_candle_adds_up() {
    let var =
        |seed, shape: &[usize]| Var::from_tensor(&values(seed, shape).to_device(gpu()).unwrap()).unwrap();
    let (xs, shared, first, second) =
        (var(1, &[14, 24]), var(2, &[4, 24]), var(3, &[24, 4]), var(4, &[24, 4]));
    let dropout = Dropout::new("base", 0.0).unwrap();
    let base = FrozenLinear::new("base", constant(5, &[24, 24], &xs), None).unwrap();
    let layer = |xs: &Tensor, b: &Var| {
        let lora = LoraWeights { a: &shared, b, scale: 1.5, dropout: &dropout };
        lora_linear(xs, &base, lora, &training())
    };
    let parameters = [shared.as_tensor().clone(), second.as_tensor().clone()];
    let segment = {
        let (base, dropout) = (base.clone(), dropout.clone());
        let [a, b] = parameters.clone();
        move |xs: &Tensor| {
            let lora = LoraWeights { a: &a, b: &b, scale: 1.5, dropout: &dropout };
            lora_linear(xs, &base, lora, &training()).map_err(candle_core::Error::wrap)
        }
    };
    let ys = recompute(&parameters, &layer(&xs, &first).unwrap(), segment).unwrap();
    let loss = (&ys * constant(6, &[14, 24], &ys)).unwrap().sum_all().unwrap();
    let (found, added) = (backward(&loss).unwrap(), loss.backward().unwrap());
    for variable in [&xs, &shared, &first, &second] {
        let [found, added] = [&found, &added].map(|store| list(store.get(variable).unwrap()));
        assert_eq!(found, added);
        assert!(found.iter().any(|value| *value != 0.0));
    }
}
