//! Model files of candle-transformers, compiled unchanged, with trainable-nn under the name `candle_nn`. The
//! tests prove that their outputs are the same and that they can be trained.

// These files follow the lints of their own project.
#![allow(warnings, missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
#![allow(unreachable_pub, clippy::print_stdout, clippy::print_stderr, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/models.rs"));
