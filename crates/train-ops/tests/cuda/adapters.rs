//! Layers with an adapter.

use train_ops::{Dropout, FrozenLinear, LoraWeights, lora_linear};

use crate::common::{Frozen, ONE, Parameter, Trained, check, constant, training};

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
