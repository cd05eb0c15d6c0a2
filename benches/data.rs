//! What it takes to make batches: decode, resize, tokenise.
//!
//! `cargo bench --bench data`.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;

use caption_data::{CaptionSource, DrawingSource, TokenizedCaptions};
use criterion::Criterion;
use recipes::captioning::pictures;
use recipes::open::Pretrained;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let pretrained = Pretrained::open(&recipes::open::embedded_checkpoint()).unwrap();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::default());
    let rows: Vec<usize> = (0..8).collect();
    let loader = pictures(&source, &pretrained.processor);
    criterion.bench_function("data/draw, resize and normalise 8 pictures", |bencher| {
        bencher.iter(|| black_box(loader.load(&rows).unwrap()));
    });
    criterion.bench_function("data/tokenise all captions", |bencher| {
        bencher.iter(|| TokenizedCaptions::new(black_box(source.as_ref()), &pretrained.tokenizer).unwrap());
    });
    criterion.final_summary();
}
