//! The other programs and examples, run as users run them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod caption;
mod distributed;
mod folders;
mod hub_examples;
mod other_examples;
mod program;
mod rows;
mod tied;
