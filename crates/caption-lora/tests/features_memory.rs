//! Memory use of the feature cache. Alone in its process, so that the memory measured is its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::print_stderr, reason = "measurements are for people")]

use candle_core::{DType, Device, Tensor};
use caption_lora::features::{CachePlace, FeatureStore, Layout};

/// Features of 2 MiB per picture, for 128 pictures.
const LAYOUT: Layout = Layout { tokens: 512, width: 1024, dtype: DType::F32 };
const PICTURES: usize = 128;

/// The peak memory of the process, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Fills a store, reads it twice in batches of two, and returns how much the peak rose.
fn grown(keep: &CachePlace) -> f64 {
    let before = peak();
    let rows: Vec<_> = (0..PICTURES).map(|row| (row, row as u128)).collect();
    let store = FeatureStore::fill(&rows, LAYOUT, &Device::Cpu, keep, |rows| {
        let features = |row: usize| Tensor::full(row as f32, (1, LAYOUT.tokens, LAYOUT.width), &Device::Cpu);
        Ok(rows.into_iter().map(move |row| Ok(features(row)?)))
    });
    let store = store.unwrap();
    for first in (0..PICTURES).step_by(2).chain((0..PICTURES).step_by(2)) {
        let sum = store.batch(&[first, first + 1]).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(sum, (LAYOUT.bytes() / 4) as f32 * (2 * first + 1) as f32);
    }
    peak() - before
}

#[test]
fn features_in_files_need_only_the_memory_of_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let keep = |memory, between_runs: bool| CachePlace {
        memory,
        between_runs: between_runs.then(|| (folder.path().join("cache"), 1)),
        scratch: folder.path().to_owned(),
    };
    let batch = 2.0 * LAYOUT.bytes() as f64 / f64::from(1 << 20);
    let [lent, kept, found] =
        [(0, false), (0, true), (0, true)].map(|(memory, cache)| grown(&keep(memory, cache)));
    let memory = grown(&keep(usize::MAX, false));
    eprintln!(
        "a run {lent:.0} MiB, the first of several {kept:.0}, the second {found:.0}; in memory {memory:.0}"
    );
    // A batch exists twice while its pictures are stacked, and some pictures are being written to a file.
    for grown in [lent, kept, found] {
        assert!(grown <= 5.0 * batch, "{grown} MiB for batches of {batch} MiB");
    }
    assert!(memory > 200.0, "{memory} MiB of features that are 256 MiB in memory");
}
