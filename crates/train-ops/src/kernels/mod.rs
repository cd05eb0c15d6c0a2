//! Matrix products with constant weights, close to the processor's peak.
//!
//! From the inside out: [`simd`] has a few vector instructions for each instruction set, [`tile`] keeps a small block of
//! the result in registers, [`block`] walks such tiles through the caches, [`panels`] stores a matrix in the order that
//! the tiles read it, [`operand`] the rows that it is multiplied by, [`shares`] divides the result among threads, who
//! compute it [`task`] by task, and [`product`] is the whole. [`few_rows`] is another way through the panels, for products
//! that wait for memory, and [`kept`] applies dropout to sums and factors.
//!
//! Every element of a result is one running sum over `k`, in order and by one thread. So a result does not depend on
//! the number of threads, nor on how many other rows were computed with it.

mod aligned;
mod block;
mod few_rows;
mod heads;
mod isa;
mod kept;
mod operand;
mod outer;
mod panels;
mod peak;
mod product;
mod rows;
mod shares;
mod simd;
mod task;
mod tile;

pub(crate) use aligned::Aligned;
pub(crate) use heads::{Columns, Panels, Place, to_rows};
pub(crate) use isa::Isa;
pub(crate) use operand::Operand;
pub(crate) use outer::outer_sum;
pub(crate) use panels::{PackedMatrix, Precision};
pub use peak::peak_flops;
pub(crate) use product::{Start, Term, product};
pub(crate) use rows::{Rows, apart};

#[cfg(test)]
mod tests;
