//! The options of `preprocessor_config.json`.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;

use candle_core::Device;
use caption_data::{ImageProcessor, Result, RgbImage};
use image::Rgb;
use serde_json::{Value, json};

use common::message;

fn processor(config: Value) -> Result<ImageProcessor> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    ImageProcessor::from_pretrained(folder.path())
}

fn refusal(config: Value) -> String {
    message(&processor(config).unwrap_err())
}

/// A picture whose pixels are all different.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, (x * 7 + y * 13) as u8]))
}

/// The file of microsoft/git-base.
fn git_base() -> Value {
    json!({
        "crop_size": { "height": 224, "width": 224 },
        "do_center_crop": true, "do_convert_rgb": true, "do_normalize": true, "do_rescale": true,
        "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "CLIPImageProcessor", "processor_class": "GitProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": { "shortest_edge": 224 },
    })
}

#[test]
fn the_published_file_is_the_default() {
    let (read, default) = (processor(git_base()).unwrap(), ImageProcessor::default());
    let image = picture(300, 260);
    assert_eq!(read.output_size(), Some((224, 224)));
    assert_eq!(read.resize_and_crop(&image).unwrap(), default.resize_and_crop(&image).unwrap());
    assert_eq!(read.normalize(&image), default.normalize(&image));
    assert_eq!(processor(json!({})).unwrap().normalize(&image), default.normalize(&image));
}

#[test]
fn the_file_of_the_fast_processor_is_read() {
    // As written by transformers 4.57.
    let fast = json!({
        "crop_size": { "height": 224, "width": 224 },
        "data_format": "channels_first", "default_to_square": false, "device": null, "disable_grouping": null,
        "do_center_crop": true, "do_convert_rgb": true, "do_normalize": true, "do_pad": null,
        "do_rescale": true, "do_resize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_processor_type": "CLIPImageProcessorFast",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "input_data_format": null, "pad_size": null, "resample": 3, "rescale_factor": 0.00392156862745098,
        "return_tensors": null, "size": { "shortest_edge": 224 },
    });
    let image = picture(300, 260);
    let default = ImageProcessor::default();
    let same = |config: Value| {
        let read = processor(config).unwrap();
        assert_eq!(read.resize_and_crop(&image).unwrap(), default.resize_and_crop(&image).unwrap());
        assert_eq!(read.normalize(&image), default.normalize(&image));
    };
    same(fast.clone());
    // Options that the caller may have set change no pixel either.
    let mut set = fast;
    set["device"] = json!("cuda");
    set["disable_grouping"] = json!(true);
    set["input_data_format"] = json!("channels_last");
    set["return_tensors"] = json!("pt");
    same(set);
}

#[test]
fn processor_config_of_transformers_5_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let nested = json!({
        "image_processor": { "size": { "shortest_edge": 32 }, "crop_size": 32 },
        "processor_class": "GitProcessor",
    });
    fs::write(folder.path().join("processor_config.json"), nested.to_string()).unwrap();
    assert_eq!(ImageProcessor::from_pretrained(folder.path()).unwrap().output_size(), Some((32, 32)));
}

/// The rule of transformers 5 for a folder with both files: the nested one wins if it has an image processor.
#[test]
fn processor_config_wins_over_preprocessor_config_where_it_has_an_image_processor() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("preprocessor_config.json", json!({ "size": { "shortest_edge": 48 }, "crop_size": 48 }));
    let size = || ImageProcessor::from_pretrained(folder.path()).map(|processor| processor.output_size());
    write(
        "processor_config.json",
        json!({ "image_processor": { "crop_size": 32 }, "processor_class": "GitProcessor" }),
    );
    assert_eq!(size().unwrap(), Some((32, 32)));
    assert_eq!(ImageProcessor::file(folder.path()), folder.path().join("processor_config.json"));
    // As written by transformers 4, for processors with options of their own.
    write("processor_config.json", json!({ "processor_class": "GitProcessor" }));
    assert_eq!(size().unwrap(), Some((48, 48)));
    // Without the file beside it, nothing says how to prepare pictures.
    fs::remove_file(folder.path().join("preprocessor_config.json")).unwrap();
    assert!(size().unwrap_err().to_string().contains("preprocessor_config.json"));
    fs::write(folder.path().join("processor_config.json"), "{").unwrap();
    assert!(size().unwrap_err().to_string().contains("/processor_config.json"));
}

#[test]
fn sizes_may_be_numbers_or_dictionaries() {
    for size in
        [json!(40), json!({ "shortest_edge": 40 }), json!({ "shortest_edge": 40, "longest_edge": null })]
    {
        let processor = processor(json!({ "size": size, "do_center_crop": false })).unwrap();
        assert_eq!(processor.output_size(), None);
        // 40 * 101 / 60 = 67.3, truncated.
        assert_eq!(processor.resize_and_crop(&picture(60, 101)).unwrap().dimensions(), (40, 67));
        assert_eq!(processor.resize_and_crop(&picture(101, 60)).unwrap().dimensions(), (67, 40));
    }
    let exact = processor(json!({ "size": { "width": 50, "height": 20 }, "do_center_crop": false })).unwrap();
    assert_eq!(exact.output_size(), Some((20, 50)));
    assert_eq!(exact.resize_and_crop(&picture(33, 44)).unwrap().dimensions(), (50, 20));
    let crop = processor(json!({ "crop_size": { "height": 10, "width": 30 } })).unwrap();
    assert_eq!(crop.resize_and_crop(&picture(33, 44)).unwrap().dimensions(), (30, 10));
}

#[test]
fn the_processor_of_video_checkpoints_has_defaults_of_its_own() {
    let video = processor(json!({ "image_processor_type": "VideoMAEImageProcessor" })).unwrap();
    assert_eq!(video.normalize(&RgbImage::from_pixel(1, 1, Rgb([0, 255, 0]))), [-1.0, 1.0, -1.0]);
    let bilinear = processor(json!({ "resample": 2 })).unwrap();
    let image = picture(100, 90);
    assert_eq!(video.resize_and_crop(&image).unwrap(), bilinear.resize_and_crop(&image).unwrap());
    assert_ne!(
        video.resize_and_crop(&image).unwrap(),
        ImageProcessor::default().resize_and_crop(&image).unwrap()
    );
}

#[test]
fn a_narrow_picture_costs_no_more_than_its_crop() {
    let line = RgbImage::from_pixel(1, 60_000, Rgb([9; 3]));
    let cropped = ImageProcessor::default().resize_and_crop(&line).unwrap();
    assert!(cropped.dimensions() == (224, 224) && cropped.pixels().all(|pixel| pixel.0 == [9; 3]));
    let uncropped = processor(json!({ "do_center_crop": false })).unwrap();
    let text = uncropped.resize_and_crop(&line).unwrap_err().to_string();
    assert!(text.contains("1 x 60000 pixels would become 224 x 13440000"), "{text}");
}

#[test]
fn processing_steps_can_be_disabled() {
    let image = picture(5, 4);
    let nothing =
        json!({ "do_resize": false, "do_center_crop": false, "do_rescale": false, "do_normalize": false });
    let values =
        processor(nothing).unwrap().pixel_values(std::slice::from_ref(&image), &Device::Cpu).unwrap();
    assert_eq!(values.get(0).unwrap().get(1).unwrap().to_vec2::<f32>().unwrap()[3], [3.0; 5]);
    let rescaled =
        json!({ "do_resize": false, "do_center_crop": false, "rescale_factor": 0.5, "do_normalize": false });
    let values = processor(rescaled).unwrap().normalize(&image);
    assert_eq!(values[..5], [0.0, 0.5, 1.0, 1.5, 2.0]);
}

#[test]
fn a_crop_larger_than_the_picture_is_padded_with_black_as_in_transformers() {
    // Expected from transformers.image_transforms.center_crop. A picture of 4 x 5 (height x width) to 7 x 8:
    // 2 rows above, 1 below, 2 columns left, 1 right. A picture of 9 x 3 to 6 x 6: rows 1 to 6, 2 columns
    // left, 1 right.
    let crop = |height, width| {
        processor(json!({ "do_resize": false, "crop_size": { "height": height, "width": width } })).unwrap()
    };
    let image = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8 + 1, y as u8 + 1, 1]));
    let padded = crop(7, 8).resize_and_crop(&image).unwrap();
    for (x, y, pixel) in padded.enumerate_pixels() {
        let inside = (2..7).contains(&x) && (2..6).contains(&y);
        assert_eq!(
            pixel.0,
            if inside { [x as u8 - 1, y as u8 - 1, 1] } else { [0; 3] },
            "column {x}, row {y}"
        );
    }
    let image = RgbImage::from_fn(3, 9, |x, y| Rgb([x as u8 + 1, y as u8 + 1, 1]));
    let mixed = crop(6, 6).resize_and_crop(&image).unwrap();
    for (x, y, pixel) in mixed.enumerate_pixels() {
        let inside = (2..5).contains(&x);
        assert_eq!(
            pixel.0,
            if inside { [x as u8 - 1, y as u8 + 2, 1] } else { [0; 3] },
            "column {x}, row {y}"
        );
    }
}

#[test]
fn unsupported_options_are_named() {
    let cases = [
        (
            json!({ "image_processor_type": "ViTImageProcessor" }),
            "`image_processor_type` is ViTImageProcessor",
        ),
        (json!({ "feature_extractor_type": "ViTFeatureExtractor" }), "ViTFeatureExtractor"),
        (json!({ "resample": 1 }), "`resample` is 1, supported: 2 (bilinear), 3 (bicubic)"),
        (json!({ "do_convert_rgb": false }), "`do_convert_rgb` is false"),
        (json!({ "size": { "shortest_edge": 224, "longest_edge": 400 } }), "`size` is"),
        (json!({ "size": 0 }), "`size` is 0"),
        (json!({ "size": "big" }), "`size` is \"big\""),
        (json!({ "crop_size": { "shortest_edge": 224 } }), "`crop_size` is"),
        (json!({ "do_pad": true }), "`do_pad` is true"),
        (
            json!({ "data_format": "channels_last" }),
            "`data_format` is channels_last, supported: channels_first",
        ),
        (json!({ "offset": 1.0 }), "`offset` is 1.0"),
        (json!({ "image_std": [0.5, 0.0, 0.5] }), "`image_std` is"),
    ];
    for (config, message) in cases {
        let text = refusal(config);
        assert!(text.contains(message) && text.contains("preprocessor_config.json"), "{text}");
    }
    assert!(
        processor(json!({ "do_pad": false, "pad_size": null, "_valid_processor_keys": ["images"] })).is_ok()
    );
}

#[test]
fn broken_and_missing_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = message(&ImageProcessor::from_pretrained(folder.path()).unwrap_err());
    assert!(text.contains("preprocessor_config.json"), "{text}");
    fs::write(folder.path().join("preprocessor_config.json"), r#"{"image_mean": [0.5]}"#).unwrap();
    let text = message(&ImageProcessor::from_pretrained(folder.path()).unwrap_err());
    assert!(text.contains("preprocessor_config.json") && text.contains("length"), "{text}");
    assert!(
        ImageProcessor::default()
            .resize_and_crop(&RgbImage::new(0, 5))
            .unwrap_err()
            .to_string()
            .contains("0 x 5")
    );
}

#[test]
fn pictures_of_different_sizes_cannot_be_batched() {
    let processor = processor(json!({ "do_center_crop": false })).unwrap();
    let text =
        processor.pixel_values(&[picture(10, 10), picture(10, 20)], &Device::Cpu).unwrap_err().to_string();
    assert!(text.contains("224 x 224 and 224 x 448"), "{text}");
}
