//! Folders with pictures, and the rows that they should have.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use caption_data::{CaptionSource, Result, RgbImage, SourceOptions, open};
use image::Rgb;
use tempfile::TempDir;

use super::message;

/// The picture of row `i`.
pub(crate) fn picture(i: usize) -> RgbImage {
    RgbImage::from_pixel(4 + i as u32, 3, Rgb([10 * i as u8, 20 * i as u8, 30 * i as u8]))
}

/// A folder with the given files, and with pictures, the first of which is that of row 0.
pub(crate) fn folder(files: &[(&str, &[u8])], pictures: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    files.iter().for_each(|(name, content)| fs::write(at(name), content).unwrap());
    for (i, name) in pictures.iter().enumerate() {
        picture(i).save_with_format(at(name), image::ImageFormat::Png).unwrap();
    }
    folder
}

pub(crate) fn open_at(path: impl AsRef<Path>) -> Result<Arc<dyn CaptionSource>> {
    open(path, &SourceOptions::default())
}

pub(crate) fn assert_rows(source: Result<Arc<dyn CaptionSource>>, len: usize) {
    let source = source.unwrap();
    assert_eq!(source.len(), len);
    for row in 0..len {
        assert_eq!(source.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(source.image(row).unwrap(), picture(row), "row {row}");
    }
}

pub(crate) fn refusal(source: Result<Arc<dyn CaptionSource>>) -> String {
    message(&source.err().unwrap())
}

pub(crate) fn left_out(folder: &TempDir) -> Vec<String> {
    open_at(folder.path()).unwrap().left_out().groups().map(ToString::to_string).collect()
}
