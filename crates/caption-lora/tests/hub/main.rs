//! The client of the hub, against a server on loopback.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod answers;
mod cache;
mod datasets;
mod downloads;
