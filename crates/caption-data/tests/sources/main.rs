//! Datasets on disk: parquet files written by `datasets` and pyarrow (fixtures/make_parquet.py), and folders
//! that the tests write.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[path = "../common/mod.rs"]
mod common;
mod fingerprints;
mod folders;
mod parquet;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use caption_data::{
    CaptionSource, Error, ImageFolder, ParquetSource, Result, RgbImage, SourceOptions, Subset, open,
};
use common::{fixture, message};
use image::Rgb;
use proptest::prelude::*;
use tempfile::TempDir;

/// The picture of row `i` in every fixture.
fn picture(i: usize) -> RgbImage {
    RgbImage::from_pixel(4 + i as u32, 3, Rgb([10 * i as u8, 20 * i as u8, 30 * i as u8]))
}

fn assert_rows(source: &dyn CaptionSource, len: usize) {
    assert_eq!(source.len(), len);
    for row in (0..len).rev().chain(0..len) {
        assert_eq!(source.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(source.image(row).unwrap(), picture(row), "row {row}");
    }
    let missing = source.image(len).unwrap_err();
    assert!(matches!(&missing, Error::RowOutOfRange { row, .. } if *row == len), "{missing}");
    assert!(matches!(source.caption(len), Err(Error::RowOutOfRange { .. })));
}

fn open_fixture(path: &str) -> Result<Arc<dyn CaptionSource>> {
    open(fixture("parquet").join(path), &SourceOptions::default())
}

fn refusal<T>(result: Result<T>) -> String {
    message(&result.err().unwrap())
}

/// A folder with the given text files, and the fixtures' pictures at the given paths.
fn folder(texts: &[(&str, &str)], pictures: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    texts.iter().for_each(|(name, text)| fs::write(at(name), text).unwrap());
    pictures.iter().enumerate().for_each(|(i, name)| picture(i).save(at(name)).unwrap());
    folder
}

fn open_folder(folder: &TempDir) -> Result<Arc<dyn CaptionSource>> {
    open(folder.path(), &SourceOptions::default())
}
