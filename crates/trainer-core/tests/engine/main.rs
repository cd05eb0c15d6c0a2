//! The engine as its users meet it, on models small enough to reason about.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod accumulation;
mod audit;
mod checkpoints;
mod common;
mod faults;
mod golden;
mod resume;
mod sinks;
mod stopping;
mod workers;
