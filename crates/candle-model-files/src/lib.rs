//! Model files of candle-transformers, compiled unchanged, with trainable-nn under the name `candle_nn`. `tests/` proves that
//! they compute what they did and can be trained.

// The files have their own rules.
#![allow(warnings, missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/models.rs"));
