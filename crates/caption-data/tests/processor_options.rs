//! An image processor whose steps are given in code.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use candle_core::Device;
use caption_data::{ImageProcessor, ImageSize, ProcessorConfig, Resample, RgbImage};

fn picture() -> RgbImage {
    RgbImage::from_fn(90, 70, |x, y| [(3 * x % 256) as u8, (5 * y % 256) as u8, (x * y % 256) as u8].into())
}

#[test]
fn steps_in_code_give_the_bits_of_the_same_steps_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{"image_processor_type": "BlipImageProcessor", "size": {"height": 24, "width": 32}, "resample": 2,
        "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), json).unwrap();
    let from_file = ImageProcessor::from_pretrained(folder.path()).unwrap();
    let config = ProcessorConfig {
        resize: Some((ImageSize::Exact { height: 24, width: 32 }, Resample::Bilinear)),
        crop: None,
        normalize: Some(([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])),
        ..ProcessorConfig::default()
    };
    let in_code = ImageProcessor::new(config).unwrap();
    assert_eq!(in_code.output_size(), Some((24, 32)));
    let values = |processor: &ImageProcessor| {
        let values = processor.pixel_values(&[picture()], &Device::Cpu).unwrap();
        assert_eq!(values.dims(), [1, 3, 24, 32]);
        values.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(values(&in_code), values(&from_file));
}

#[test]
fn steps_out_of_range_are_refused_by_name() {
    let resize =
        |size| ProcessorConfig { resize: Some((size, Resample::Bicubic)), ..ProcessorConfig::default() };
    let crop = |crop| ProcessorConfig { crop: Some(crop), ..ProcessorConfig::default() };
    let std = ([0.5; 3], [0.5, 0.0, 0.5]);
    for (config, words) in [
        (resize(ImageSize::ShortestEdge(0)), "resize is 0"),
        (resize(ImageSize::Exact { height: 20_000, width: 8 }), "resize is 20000"),
        (crop((8, 0)), "crop is 0"),
        (ProcessorConfig { normalize: Some(std), ..ProcessorConfig::default() }, "the standard deviation is"),
    ] {
        let error = ImageProcessor::new(config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
