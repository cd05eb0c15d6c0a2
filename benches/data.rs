//! The cost of making batches: decode, resize and normalise, tokenise.
//!
//! `cargo bench --bench data`: 8 drawings as PNG files of 320 x 320 pixels, resized to the 224 x 224 of
//! git-base, and all captions.

// A bench may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::io::Cursor;
use std::sync::Arc;

use candle_core::Device;
use caption_data::{CaptionSource, CaptionTokenizer, ImageDecoder, ImageProcessor, TokenizedCaptions};
use criterion::Criterion;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};
use monster_drawings::DrawingSource;

/// Pictures per batch.
const PICTURES: usize = 8;
/// Their width and height.
const SIDE: u32 = 320;
/// git-base's image processor.
const PROCESSOR: &str = r#"{
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224}
}"#;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::default());
    let drawings =
        (0..PICTURES).map(|row| resize(&source.image(row).unwrap(), SIDE, SIDE, FilterType::CatmullRom));
    let drawings: Vec<RgbImage> = drawings.collect();
    let files: Vec<Vec<u8>> = drawings.iter().map(png).collect();
    let decoder = ImageDecoder::default();
    criterion.bench_function("data/decode 8 pictures", |bencher| {
        bencher
            .iter(|| files.iter().map(|file| decoder.decode(black_box(file)).unwrap()).collect::<Vec<_>>());
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("preprocessor_config.json"), PROCESSOR).unwrap();
    let processor = ImageProcessor::from_pretrained(folder.path()).unwrap();
    criterion.bench_function("data/resize and normalise 8 pictures", |bencher| {
        bencher.iter(|| processor.pixel_values(black_box(&drawings), &Device::Cpu).unwrap());
    });
    let tokenizer = CaptionTokenizer::from_pretrained(caption_lora::embedded::checkpoint().unwrap()).unwrap();
    criterion.bench_function("data/tokenise all captions", |bencher| {
        bencher.iter(|| TokenizedCaptions::new(black_box(&source), &tokenizer).unwrap());
    });
    criterion.final_summary();
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}
