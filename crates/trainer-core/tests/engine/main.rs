//! The engine through its public interface, on small models.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod accumulation;
mod audit;
mod checkpoints;
mod common;
mod doors;
mod faults;
mod golden;
mod overlap;
mod resume;
mod sinks;
mod stopping;
mod workers;
