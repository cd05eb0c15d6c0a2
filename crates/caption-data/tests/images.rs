//! Decoding and processing, compared with `datasets`, Pillow and `CLIPImageProcessor`
//! (fixtures/make_images.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use candle_core::Device;
use caption_data::image_pixels::Error;
use caption_data::{ImageDecoder, ImageProcessor, RgbImage};
use common::{fixture, fnv, json, numbers};
use proptest::prelude::*;

fn read(name: &str) -> Vec<u8> {
    fs::read(fixture("images").join(name)).unwrap()
}

fn decode(name: &str) -> RgbImage {
    ImageDecoder::default().decode(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The expected pixels of a file, which the script saved as an 8-bit RGB PNG.
fn expected(name: &str) -> RgbImage {
    image::open(fixture("images/expected").join(name)).unwrap().into_rgb8()
}

/// The largest and the mean difference of levels.
fn difference(one: &RgbImage, other: &RgbImage) -> (u8, f64) {
    assert_eq!(one.dimensions(), other.dimensions());
    let differences: Vec<u8> = one.as_raw().iter().zip(other.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
    (differences.iter().copied().max().unwrap(), sum / differences.len() as f64)
}

#[test]
fn lossless_pictures_of_every_mode_and_orientation_decode_to_pillows_pixels() {
    let manifest = json("images/manifest.json");
    let lossy: Vec<_> =
        manifest["lossy"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let mut checked = 0;
    for entry in fs::read_dir(fixture("images/expected")).unwrap() {
        let expectation = entry.unwrap().file_name().into_string().unwrap();
        let name = expectation.trim_end_matches(".png").to_owned()
            + if expectation.matches(".png").count() > 1 { ".png" } else { "" };
        if expectation.ends_with(".rows.png")
            || expectation.starts_with("variant")
            || lossy.contains(&name.as_str())
        {
            continue;
        }
        assert_eq!(difference(&decode(&name), &expected(&expectation)), (0, 0.0), "{name}");
        checked += 1;
    }
    assert!(checked >= 35, "{checked}");
}

#[test]
fn lossy_pictures_decode_within_a_few_levels_of_libjpeg_turbo_and_as_libwebp() {
    // The largest difference of a level, and the mean over all. Chroma upsampling differs more than the
    // transform.
    let bounds = [
        ("444.jpg", 2, 0.02),
        ("422.jpg", 4, 0.2),
        ("420.jpg", 3, 0.4),
        ("420_odd.jpg", 3, 0.4),
        ("progressive.jpg", 4, 0.4),
        ("exif_6.jpg", 6, 0.45),
        ("xmp_8.jpg", 6, 0.45),
        ("gray.jpg", 1, 0.01),
        ("cmyk.jpg", 1, 0.01),
        ("lossy.webp", 0, 0.0),
    ];
    let manifest = json("images/manifest.json");
    assert_eq!(manifest["lossy"].as_array().unwrap().len(), bounds.len());
    let found = bounds.map(|(name, ..)| (name, difference(&decode(name), &expected(&format!("{name}.png")))));
    let within = found
        .iter()
        .zip(bounds)
        .all(|((_, found), (_, largest, mean))| found.0 <= largest && found.1 <= mean);
    assert!(within, "{found:?}");
}

#[test]
fn pixel_values_are_clip_image_processors_bit_for_bit() {
    let manifest = json("images/manifest.json");
    let levels: Vec<Vec<u32>> = json("images/levels.json").as_array().unwrap().iter().map(numbers).collect();
    let processor = ImageProcessor::default();
    let processed = manifest["processed"].as_object().unwrap();
    assert!(processed.len() >= 10);
    for (name, hash) in processed {
        let image = decode(name);
        let small = processor.resize_and_crop(&image).unwrap();
        let rows = expected(&format!("{name}.rows.png"));
        for (x, y, pixel) in rows.enumerate_pixels() {
            assert_eq!(small.get_pixel(x, y * 5), pixel, "{name} at column {x}, row {}", y * 5);
        }
        assert_eq!(
            &fnv(small.as_raw().iter().copied()),
            hash,
            "{name}, in the rows between those that were recorded"
        );

        let values = processor
            .pixel_values(&[image], &Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let of = |c: usize| small.pixels().map(move |pixel| (c, usize::from(pixel[c])));
        let bits: Vec<u32> = (0..3).flat_map(of).map(|(c, level)| levels[c][level]).collect();
        assert!(values.iter().map(|value| value.to_bits()).eq(bits), "{name}");
    }
}

#[test]
fn other_settings_resize_and_crop_as_transformers_does() {
    let manifest = json("images/manifest.json");
    for (i, variant) in manifest["variants"].as_array().unwrap().iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("preprocessor_config.json"), variant[1].to_string()).unwrap();
        let processor = ImageProcessor::from_pretrained(folder.path()).unwrap();
        let small = processor.resize_and_crop(&decode(variant[0].as_str().unwrap())).unwrap();
        assert_eq!(difference(&small, &expected(&format!("variant_{i}.png"))), (0, 0.0), "{variant}");
    }
}

#[test]
fn a_batch_of_pixel_values_is_its_pictures_one_by_one() {
    let processor = ImageProcessor::default();
    let images = ["31x17.png", "1x500.png", "320x320.png"].map(decode);
    let all = processor.pixel_values(&images, &Device::Cpu).unwrap();
    assert_eq!(all.dims(), [3, 3, 224, 224]);
    for (i, image) in images.into_iter().enumerate() {
        let one = processor.pixel_values(&[image], &Device::Cpu).unwrap();
        let same = all
            .get(i)
            .unwrap()
            .eq(&one.get(0).unwrap())
            .unwrap()
            .min_all()
            .unwrap()
            .to_scalar::<u8>()
            .unwrap();
        assert_eq!(same, 1);
    }
}

// Bad input

fn refusal(file: &[u8]) -> String {
    ImageDecoder::default().decode(file).unwrap_err().to_string()
}

#[test]
fn truncated_pictures_are_errors_and_not_half_gray() {
    for name in [
        "rgb.png",
        "p.png",
        "444.jpg",
        "420_odd.jpg",
        "progressive.jpg",
        "exif_6.jpg",
        "p.gif",
        "rgb.bmp",
        "rgb_lossless.webp",
    ] {
        let whole = read(name);
        for part in [0.1, 0.3, 0.5, 0.7, 0.9] {
            let cut = &whole[..(whole.len() as f64 * part) as usize];
            let text = refusal(cut);
            assert!(text.contains("cannot be decoded"), "{name} cut to {part}: {text}");
        }
    }
    let jpeg = read("444.jpg");
    assert!(refusal(&jpeg[..jpeg.len() - 1]).contains("cut short"));
}

#[test]
fn files_that_are_not_pictures_are_reported() {
    assert!(refusal(b"").contains("the file is empty"));
    assert!(refusal(b"<html><body>").contains(r#"begins with "<html><b""#));
    assert!(refusal(b"II*\0\x08\0\0\0").contains("cannot be decoded"));
    assert!(refusal(b"\x89PNG\r\n\x1a\n").contains("cannot be decoded"));
}

/// A PNG whose header promises far more than its few bytes hold.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut png = read("rgb.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = png[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
    });
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

#[test]
fn decompression_bombs_are_refused_by_their_header() {
    assert!(matches!(
        ImageDecoder::default().decode(&bomb(60_000, 60_000)),
        Err(Error::TooManyPixels { width: 60_000, height: 60_000, max_pixels: 178_956_970 })
    ));
    let strict = ImageDecoder { max_pixels: 20 * 14 - 1 };
    assert!(strict.decode(&read("rgb.png")).unwrap_err().to_string().contains("20 x 14"));
    assert!(ImageDecoder { max_pixels: 20 * 14 }.decode(&read("rgb.png")).is_ok());
    // The size is within the limit, but the data are missing.
    assert!(refusal(&bomb(5_000, 5_000)).contains("cannot be decoded"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn damaged_pictures_never_panic(
        name in prop::sample::select(vec![
            "p.png", "rgba16.png", "interlaced.png", "xmp_3.png", "packed_xmp_8.png", "late_packed_profile_5.png",
            "444.jpg", "progressive.jpg", "cmyk.jpg",
            "exif_6.jpg", "p.gif", "p.bmp", "lossy.webp", "rgba_lossless.webp",
        ]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = read(name);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        // Either a picture or an error. The limit is low so that a damaged header costs nothing.
        let _ = ImageDecoder { max_pixels: 100_000 }.decode(&file);
    }
}
