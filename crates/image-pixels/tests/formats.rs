//! Rarer formats of pictures, and incomplete files, compared with Pillow (fixtures/make_formats.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image_pixels::{Error, ImageDecoder, RgbImage};
use serde_json::Value;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn decode(name: &str) -> Result<RgbImage, Error> {
    ImageDecoder::default().decode(&fs::read(fixture("formats").join(name)).unwrap())
}

/// The fixtures that Pillow decodes, each with its pixels.
fn expected() -> BTreeMap<String, RgbImage> {
    let files = fs::read_dir(fixture("formats/expected")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), image::open(&path).unwrap().into_rgb8())).collect()
}

/// The largest difference between two levels; `None` if the pictures differ in size.
fn difference(one: &RgbImage, other: &RgbImage) -> Option<u8> {
    let levels = one.as_raw().iter().zip(other.as_raw());
    (one.dimensions() == other.dimensions()).then(|| levels.map(|(a, b)| a.abs_diff(*b)).max().unwrap())
}

/// Files that Pillow decodes and this crate refuses, with the error message.
const REFUSED: [(&str, &str); 4] = [
    ("broken_idat_checksum.png", "CRC error"), // pixels that were damaged
    ("float.tif", "convert it to PNG or JPEG"),
    ("reversed_bits.tif", "its bits are stored in reverse order (FillOrder 2); convert it to PNG or JPEG"),
    ("p.ico", "did not match expected size"),
];

/// The largest difference allowed, if not 0: decoders of JPEG, and of colours with other than 8 bits, round
/// differently.
fn bound(name: &str) -> u8 {
    match name {
        "rgb15.tga" | "rgb565.bmp" => 1,
        name if name.ends_with(".jpg") => 2,
        _ => 0,
    }
}

#[test]
fn every_format_decodes_to_pillows_pixels() {
    let expected = expected();
    assert!(expected.len() > 140, "{}", expected.len());
    let mut wrong = Vec::new();
    for (name, pixels) in &expected {
        let refusal = REFUSED.iter().find(|(refused, _)| refused == name);
        match (decode(name).map(|image| difference(&image, pixels)), refusal) {
            (Ok(Some(difference)), None) if difference <= bound(name) => {}
            (Err(error), Some((_, why))) if error.to_string().contains(why) => {}
            (other, _) => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_that_pillow_refuses_are_refused() {
    let manifest: Value =
        serde_json::from_slice(&fs::read(fixture("formats/manifest.json")).unwrap()).unwrap();
    for (name, why) in manifest["refused"].as_object().unwrap() {
        // Pillow does not read PAM, and it verifies a checksum that this crate skips.
        if !["rgba.pam", "broken_text_checksum.png"].contains(&name.as_str()) {
            assert!(decode(name).is_err(), "{name}: {why}");
        }
    }
}

#[test]
fn unsupported_formats_are_named_with_advice() {
    let avif = b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf";
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    let svg =
        b"\xEF\xBB\xBF<?xml version=\"1.0\"?>\n<!-- a bird -->\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
    for (file, kind) in [
        (avif.as_slice(), "AVIF"),
        (heic.as_slice(), "HEIC"),
        (b"\xFF\x0A\xFA\x7F", "JPEG XL"),
        (b"\0\0\0\x0CJXL \x0D\x0A\x87\x0A", "JPEG XL"),
        (b"\0\0\0\x0CjP  \x0D\x0A\x87\x0A", "JPEG 2000"),
        (svg, "SVG"),
        (b"  <svg width='3'></svg>", "SVG"),
    ] {
        let text = ImageDecoder::default().decode(file).unwrap_err().to_string();
        assert_eq!(text, format!("{kind} pictures are not read; convert this one to PNG or JPEG"));
    }
    // A film and a web page are none of these.
    for file in [b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2".as_slice(), b"<html><svg></svg>"] {
        let text = ImageDecoder::default().decode(file).unwrap_err().to_string();
        assert!(
            text.starts_with("not a PNG, JPEG, GIF, WebP, BMP, TIFF, ICO, PNM, TGA or QOI picture"),
            "{text}"
        );
    }
}

#[test]
fn a_git_lfs_pointer_is_an_error_with_advice() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let text = ImageDecoder::default().decode(pointer).unwrap_err().to_string();
    assert!(text.contains("Git LFS pointer") && text.contains("`git lfs pull`"), "{text}");
}

#[test]
fn the_pixel_limit_is_pillows() {
    // Pillow warns above MAX_IMAGE_PIXELS and refuses above twice as many.
    assert_eq!(ImageDecoder::default().max_pixels, 178_956_970);
    let header = |width: u32, height: u32| {
        let mut qoi = b"qoif".to_vec();
        qoi.extend(width.to_be_bytes());
        qoi.extend(height.to_be_bytes());
        qoi.extend([3, 0]);
        qoi
    };
    let refusal = |width, height| ImageDecoder::default().decode(&header(width, height)).unwrap_err();
    assert!(matches!(refusal(13_378, 13_378), Error::TooManyPixels { width: 13_378, height: 13_378, .. }));
    // The size is within the limit, but the pixels are missing.
    assert!(matches!(refusal(13_377, 13_377), Error::Decode { .. }));
    let gif = fs::read(fixture("formats/small_frame.gif")).unwrap();
    let strict = ImageDecoder { max_pixels: 11 * 9 - 1 };
    assert!(matches!(
        strict.decode(&gif),
        Err(Error::TooManyPixels { width: 11, height: 9, max_pixels: 98 })
    ));
}

#[test]
fn damaged_pictures_of_every_format_never_panic() {
    // Replaces each of the first 200 bytes in turn; a low limit keeps damaged sizes cheap.
    for entry in fs::read_dir(fixture("formats")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len().min(200) {
            for byte in [0, 0xFF, whole[at] ^ 0x10] {
                let mut file = whole.clone();
                file[at] = byte;
                let _ = ImageDecoder { max_pixels: 100_000 }.decode(&file);
            }
        }
        for length in 0..whole.len().min(300) {
            let _ = ImageDecoder { max_pixels: 100_000 }.decode(&whole[..length]);
        }
    }
}
