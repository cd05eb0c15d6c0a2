#![doc = include_str!("../README.md")]
//!
//! # How a product is computed
//! From the innermost loop outwards:
//!
//! | module | what it does |
//! |---|---|
//! | `simd` | the vector instructions that a micro-kernel needs, once for each instruction set |
//! | `tile` | the micro-kernel: accumulates one register-sized tile of the result |
//! | `block` | walks the tiles of a cache-sized block of the result |
//! | `packed`, `quantise` | [`PackedMatrix`]: a matrix packed into panels, in f32, bf16 or int8 |
//! | `rows`, `operand` | the rows that it is multiplied by, and their conversion, made once for all products that read them |
//! | `task`, `product` | a sum of products, with dropout masks, as rectangles of the result |
//! | `shares` | divides these rectangles among threads |
//! | `int8`, `amx` | products of integers on both sides, by VNNI, AMX, NEON or pairs of 16 bits |
//! | `skinny` | the same for a few rows, whose speed is that of memory |
//! | `at_b` | `Aᵀ B`, for gradients of weights |
//! | `small` | small products on one thread, for the heads of attention |
//! | `peak` | measures the highest rate of multiply-adds that the processor reaches |
//!
//! An element of a result is one running sum over `k`, in order and on one thread. So results do not depend on the number
//! of threads, nor on the other rows of the product.

mod adamw;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod at_b;
mod block;
mod buffer;
mod dispatch;
mod dropout;
mod error;
mod gathered;
mod gelu;
mod int8;
mod isa;
mod large_pages;
mod layer_norm;
mod masked_copy;
mod math;
mod memory;
mod operand;
mod packed;
mod peak;
mod product;
mod quantise;
mod rows;
mod shared_pointer;
mod shares;
mod simd;
mod skinny;
mod small;
mod softmax;
mod task;
mod term;
mod tile;
mod words;

pub use adamw::{AdamWScalars, AdamWState, adamw, add, scaled_adamw};
pub use at_b::at_b;
pub use buffer::Buffer;
pub use dropout::{DropoutMask, MaskBits};
pub use error::{Error, Result};
pub use gathered::{Gathered, gathered_dots, gathered_sum};
pub use gelu::{
    gelu, gelu_gradient, gelu_tanh, gelu_tanh_gradient, quick_gelu, quick_gelu_gradient, silu, silu_gradient,
};
pub use int8::{MAX_INT8_ROW, QuantisedRows, int8_product};
pub use isa::{ISA_VARIABLE, Isa};
pub use layer_norm::{RowStatistics, normalise, normalise_gradient, rms_normalise, rms_normalise_gradient};
pub use math::mix;
pub use memory::{keep_freed_memory, release_memory};
pub use operand::Operand;
pub use packed::{PackedMatrix, Precision};
pub use peak::peak_flops;
pub use product::product;
pub use rows::{Rows, leading_dimension};
pub use small::{Panels, SharedOutput, Strided, small_product};
pub use softmax::{LANES, log_sum_exp, probabilities, softmax, softmax_gradient};
pub use term::{Init, Term};
