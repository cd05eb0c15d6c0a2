use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use image_pixels::{RgbImage, centre_crop, planes, resize_and_crop};
use serde_json::Value;
use twox_hash::XxHash3_128;

use crate::processor_config::{ImageSize, ProcessorConfig};
use crate::{Error, Result};

/// Turns pictures into pixel values, like Hugging Face's `CLIPImageProcessor` and `BlipImageProcessor` with
/// Pillow, bit for bit.
///
/// The steps, each as set in `preprocessor_config.json`: resize so that the shorter edge has the given length
/// (the longer one is truncated to whole pixels), or to a given height and width; crop the centre (padded with
/// black if the picture is smaller), which BLIP's processor does not do; and map each level to `(level * rescale_factor - mean) / std`. See
/// [`CLIPImageProcessor`](https://huggingface.co/docs/transformers/model_doc/clip#transformers.CLIPImageProcessor).
///
/// [`Default`] has CLIP's values: bicubic to 224, crop to 224 x 224, CLIP's mean and standard deviation.
///
/// ```
/// use caption_data::{ImageProcessor, RgbImage};
/// use candle_core::Device;
///
/// let processor = ImageProcessor::default();
/// let gray = RgbImage::from_pixel(640, 480, image::Rgb([128; 3]));
/// let pixel_values = processor.pixel_values(&[gray], &Device::Cpu)?;
/// assert_eq!(pixel_values.dims(), [1, 3, 224, 224]);
/// let red = pixel_values.flatten_all()?.get(0)?.to_scalar::<f32>()?;
/// assert!((red - (128.0 / 255.0 - 0.48145466) / 0.26862954).abs() < 1e-6);
/// # Ok::<(), caption_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    config: ProcessorConfig,
    /// A lookup table: the value of each of the 256 levels, for red, green and blue.
    values: [[f32; 256]; 3],
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self::of(ProcessorConfig::default())
    }
}

impl ImageProcessor {
    /// A processor with these steps.
    ///
    /// ```
    /// use candle_core::Device;
    /// use caption_data::{ImageProcessor, ImageSize, ProcessorConfig, Resample, RgbImage};
    ///
    /// let processor = ImageProcessor::new(ProcessorConfig {
    ///     resize: Some((ImageSize::Exact { height: 32, width: 48 }, Resample::Bilinear)),
    ///     crop: None,
    ///     normalize: Some(([0.5; 3], [0.5; 3])),
    ///     ..ProcessorConfig::default()
    /// })?;
    /// let white = RgbImage::from_pixel(640, 480, image::Rgb([255; 3]));
    /// let pixel_values = processor.pixel_values(&[white], &Device::Cpu)?;
    /// assert_eq!(pixel_values.dims(), [1, 3, 32, 48]);
    /// assert_eq!(pixel_values.flatten_all()?.get(0)?.to_scalar::<f32>()?, 1.0);
    /// # Ok::<(), caption_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a size is 0 or larger than 16,384 pixels, or a standard deviation is 0.
    pub fn new(config: ProcessorConfig) -> Result<Self> {
        config.check()?;
        Ok(Self::of(config))
    }

    fn of(config: ProcessorConfig) -> Self {
        let value = |level: u8, channel: usize| {
            // transformers multiplies in f64, rounds to f32, and normalises in f32.
            let rescaled =
                config.rescale.map_or(f32::from(level), |factor| (f64::from(level) * factor) as f32);
            config
                .normalize
                .map_or(rescaled, |(mean, std)| (rescaled - mean[channel] as f32) / std[channel] as f32)
        };
        let values = [0, 1, 2].map(|channel| std::array::from_fn(|level| value(level as u8, channel)));
        Self { config, values }
    }

    /// Reads the processor of a checkpoint folder from its [`file`](Self::file).
    ///
    /// # Errors
    /// If there is no such file, or as [`from_file`](Self::from_file).
    pub fn from_pretrained(checkpoint: impl AsRef<Path>) -> Result<Self> {
        Self::from_file(Self::file(checkpoint))
    }

    /// The file that describes the processor of a checkpoint folder, chosen as in transformers 5:
    /// `processor_config.json` if it contains an `image_processor`, or else `preprocessor_config.json`, which
    /// need not exist.
    pub fn file(checkpoint: impl AsRef<Path>) -> PathBuf {
        let folder = checkpoint.as_ref();
        let nested = folder.join("processor_config.json");
        let flat = folder.join("preprocessor_config.json");
        // If it is not JSON, the code that reads it reports that.
        let counts = fs::read(&nested).is_ok_and(|text| {
            let value = serde_json::from_slice::<Value>(&text);
            value.map_or(true, |value| value.get("image_processor").is_some())
        });
        if counts { nested } else { flat }
    }

    /// Reads a `preprocessor_config.json`, or the `image_processor` in a `processor_config.json`, of the
    /// processors `CLIPImageProcessor`, `VideoMAEImageProcessor` and `BlipImageProcessor`. Missing options have
    /// transformers' defaults.
    ///
    /// # Errors
    /// If the file cannot be read, or sets an option that this processor does not implement: the error names
    /// the option.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::of(ProcessorConfig::read(path.as_ref())?))
    }

    /// Height and width of the pixel values; `None` if they are those of the picture.
    pub fn output_size(&self) -> Option<(usize, usize)> {
        match (self.config.crop, self.config.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some((ImageSize::Exact { height, width }, _))) => Some((height, width)),
            _ => None,
        }
    }

    /// A hash of everything except the picture that pixel values depend on: the configuration, and the
    /// version of this code.
    pub(crate) fn fingerprint(&self) -> u128 {
        // Debug output has every field, including future ones, and every digit of every number.
        XxHash3_128::oneshot(format!("{} {:?}", env!("CARGO_PKG_VERSION"), self.config).as_bytes())
    }

    /// Resizes and crops: returns the levels from which [`pixel_values`](Self::pixel_values) are computed.
    ///
    /// # Errors
    /// If the picture has no pixels, or if it is so long and narrow that without a crop it would not fit into
    /// memory.
    pub fn resize_and_crop(&self, image: &RgbImage) -> Result<RgbImage> {
        let [size, crop] = self.sizes(image)?;
        Ok(match self.config.resize {
            Some((_, kernel)) => resize_and_crop(image, size, crop, kernel),
            None => centre_crop(image, crop),
        })
    }

    /// Whether a picture can be processed, without resizing it.
    ///
    /// # Errors
    /// As [`resize_and_crop`](Self::resize_and_crop).
    pub fn check(&self, image: &RgbImage) -> Result<()> {
        self.sizes(image).map(|_| ())
    }

    /// Width and height after resizing, and after cropping.
    fn sizes(&self, image: &RgbImage) -> Result<[(usize, usize); 2]> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width == 0 || height == 0 {
            return Err(Error::PictureSize {
                why: format!("a picture of {width} x {height} pixels has none"),
            });
        }
        let (new_width, new_height) = match self.config.resize {
            None => (width, height),
            Some((ImageSize::Exact { height, width }, _)) => (width, height),
            Some((ImageSize::ShortestEdge(edge), _)) => {
                let long = |short, long| (edge as f64 * long as f64 / short as f64) as usize;
                if width <= height { (edge, long(width, height)) } else { (long(height, width), edge) }
            }
        };
        let (crop_height, crop_width) = self.config.crop.unwrap_or((new_height, new_width));
        if crop_height * crop_width > MAX_OUTPUT_PIXELS {
            let why = format!("its {width} x {height} pixels would become {crop_width} x {crop_height}");
            return Err(Error::PictureSize { why });
        }
        Ok([(new_width, new_height), (crop_width, crop_height)])
    }

    /// The values of resized pixels in the layout `(3, height, width)`.
    pub fn normalize(&self, image: &RgbImage) -> Vec<f32> {
        planes(image, &self.values)
    }

    /// Pixel values of pictures: an f32 tensor of shape `(pictures, 3, height, width)`.
    ///
    /// # Errors
    /// If a picture has no pixels, or if the processor does not crop and the pictures have different sizes
    /// after resizing.
    pub fn pixel_values(&self, images: &[RgbImage], device: &Device) -> Result<Tensor> {
        let small = images.iter().map(|image| self.resize_and_crop(image)).collect::<Result<Vec<_>>>()?;
        self.stack(&small, device)
    }

    /// The pixel values of pictures that are already resized and cropped.
    pub(crate) fn stack(&self, images: &[RgbImage], device: &Device) -> Result<Tensor> {
        let (width, height) = images.first().map_or((0, 0), RgbImage::dimensions);
        if let Some(other) = images.iter().map(RgbImage::dimensions).find(|size| *size != (width, height)) {
            return Err(Error::DifferentSizes { first: (width, height), other });
        }
        let values = images.iter().map(|image| self.normalize(image)).collect::<Vec<_>>().concat();
        Ok(Tensor::from_vec(values, (images.len(), 3, height as usize, width as usize), device)?)
    }
}

/// The limit for pictures that are not cropped: a narrow one, enlarged by its short edge, could become
/// arbitrarily large.
const MAX_OUTPUT_PIXELS: usize = 64_000_000;
