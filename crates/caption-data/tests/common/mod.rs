//! Helpers that the tests share.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(dead_code, reason = "each test file uses some of them")]

pub(crate) mod folders;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub(crate) fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(path)).unwrap()).unwrap()
}

pub(crate) fn numbers<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value) -> Vec<T> {
    value.as_array().unwrap().iter().map(|n| T::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

/// FNV-1a, as in the scripts that made the fixtures.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    format!("{:016x}", bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, mix))
}

/// An error with its causes.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", message(cause)),
        None => error.to_string(),
    }
}
