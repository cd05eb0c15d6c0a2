//! What it takes to make batches: decode, resize, tokenise.
//!
//! `cargo bench --bench data`.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::sync::Arc;

use caption_data::drawings::DrawingSource;
use caption_data::{CaptionSource, CaptionTokenizer, ImageProcessor, TokenizedCaptions};
use criterion::Criterion;
use recipes::captioning::pictures;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let checkpoint = recipes::open::embedded_checkpoint();
    let processor = ImageProcessor::from_pretrained(&checkpoint).unwrap();
    let tokenizer = CaptionTokenizer::from_pretrained(&checkpoint).unwrap();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::default());
    let rows: Vec<usize> = (0..8).collect();
    let loader = pictures(&source, &processor);
    criterion.bench_function("data/draw, resize and normalise 8 pictures", |bencher| {
        bencher.iter(|| black_box(loader.load(&rows).unwrap()));
    });
    criterion.bench_function("data/tokenise all captions", |bencher| {
        bencher.iter(|| TokenizedCaptions::new(black_box(&source), &tokenizer).unwrap());
    });
    criterion.final_summary();
}
