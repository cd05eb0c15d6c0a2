//! The fine-tuning program, run as users run it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod blip;
mod features;
mod folder;
mod hub;
mod int8;
#[cfg(unix)]
mod interrupted;
mod moved;
mod recipe;
mod refusals;
mod resuming;
mod sweep;
mod tune;
mod variants;
