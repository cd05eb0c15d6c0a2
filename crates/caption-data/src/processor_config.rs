use std::fs;
use std::path::Path;

use image_pixels::Resample;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The steps of an [`ImageProcessor`](crate::ImageProcessor), in their order, as a `preprocessor_config.json`
/// sets them. `None` leaves a step out. The default has CLIP's values; see
/// [`ImageProcessor`](crate::ImageProcessor).
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessorConfig {
    /// The size that pictures are resized to, and the interpolation.
    pub resize: Option<(ImageSize, Resample)>,
    /// Height and width in pixels of the centre crop, with a black border if the picture is smaller.
    pub crop: Option<(usize, usize)>,
    /// The factor of each level from 0 to 255; usually 1/255.
    pub rescale: Option<f64>,
    /// Mean and standard deviation of red, green and blue after rescaling: values become `(value - mean) / std`.
    pub normalize: Option<([f64; 3], [f64; 3])>,
}

/// The size of a resized picture in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSize {
    /// The length of the shorter edge. The longer one keeps the picture's proportions.
    ShortestEdge(usize),
    /// Height and width, whatever the picture's proportions.
    Exact {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
}

/// transformers' defaults that differ between processors; all others are the same everywhere.
struct Defaults {
    kernel: Resample,
    size: ImageSize,
    /// Whether a size that is one number is the edge of a square, and not the shorter edge.
    to_square: bool,
    /// Whether the processor crops the centre.
    crops: bool,
    mean: [f64; 3],
    std: [f64; 3],
}

const CLIP: Defaults = Defaults {
    kernel: Resample::Bicubic,
    size: ImageSize::ShortestEdge(224),
    to_square: false,
    crops: true,
    mean: [0.48145466, 0.4578275, 0.40821073],
    std: [0.26862954, 0.26130258, 0.27577711],
};

const VIDEO_MAE: Defaults = Defaults { kernel: Resample::Bilinear, mean: [0.5; 3], std: [0.5; 3], ..CLIP };

const BLIP: Defaults =
    Defaults { size: ImageSize::Exact { height: 384, width: 384 }, to_square: true, crops: false, ..CLIP };

/// Processors that do the same to a picture, or to each frame of a video, as
/// [`ImageProcessor`](crate::ImageProcessor).
const PROCESSORS: [(&str, Defaults); 9] = [
    ("CLIPImageProcessor", CLIP),
    ("CLIPImageProcessorFast", CLIP),
    ("CLIPImageProcessorPil", CLIP),
    ("CLIPFeatureExtractor", CLIP),
    ("VideoMAEImageProcessor", VIDEO_MAE),
    ("VideoMAEFeatureExtractor", VIDEO_MAE),
    ("BlipImageProcessor", BLIP),
    ("BlipImageProcessorFast", BLIP),
    ("BlipImageProcessorPil", BLIP),
];

/// Options that do not affect pixels: the class that reads the file, its device, and the formats in which its
/// caller passes pictures and receives tensors.
const NO_STEPS: [&str; 7] = [
    "processor_class",
    "use_fast",
    "model_input_names",
    "device",
    "input_data_format",
    "return_tensors",
    "disable_grouping",
];

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            resize: Some((ImageSize::ShortestEdge(224), CLIP.kernel)),
            crop: Some((224, 224)),
            rescale: Some(1.0 / 255.0),
            normalize: Some((CLIP.mean, CLIP.std)),
        }
    }
}

/// The file as it is on disk. Options without an effect here are fields too, so that they are known.
#[derive(Deserialize)]
struct File {
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    do_convert_rgb: Option<bool>,
    data_format: Option<String>,
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ProcessorConfig {
    /// Checks that sizes are from 1 to 16,384 pixels, and that no standard deviation is 0.
    pub(crate) fn check(&self) -> Result<()> {
        let edges = match self.resize {
            Some((ImageSize::ShortestEdge(edge), _)) => [edge, edge],
            Some((ImageSize::Exact { height, width }, _)) => [height, width],
            None => [1, 1],
        };
        let (height, width) = self.crop.unwrap_or((1, 1));
        for (option, edge) in
            edges.map(|edge| ("resize", edge)).into_iter().chain([("crop", height), ("crop", width)])
        {
            if !(1..=MAX_EDGE).contains(&(edge as u64)) {
                return Err(Error::ProcessorOption {
                    option,
                    got: edge.to_string(),
                    supported: "1 to 16384 pixels",
                });
            }
        }
        match self.normalize {
            Some((_, std)) if std.contains(&0.0) => Err(Error::ProcessorOption {
                option: "the standard deviation",
                got: format!("{std:?}"),
                supported: "numbers other than 0",
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let json = |source| Error::Json { path: path.to_owned(), source };
        let mut value: Value = serde_json::from_slice(&text).map_err(json)?;
        if let Some(nested) = value.get_mut("image_processor") {
            value = nested.take();
        }
        let unsupported = |option: &str, value: String, supported: &'static str| Error::UnsupportedOption {
            path: path.to_owned(),
            option: option.to_owned(),
            value,
            supported,
        };
        Self::from_file(serde_json::from_value(value).map_err(json)?, unsupported)
    }

    fn from_file(file: File, unsupported: impl Fn(&str, String, &'static str) -> Error) -> Result<Self> {
        let kind = file.image_processor_type.or(file.feature_extractor_type);
        let kind = kind.unwrap_or_else(|| "CLIPImageProcessor".to_owned());
        let defaults = PROCESSORS.iter().find(|(name, _)| *name == kind).map(|(_, defaults)| defaults);
        let defaults = defaults.ok_or_else(|| {
            let supported = "CLIPImageProcessor, VideoMAEImageProcessor, BlipImageProcessor";
            unsupported("image_processor_type", kind.clone(), supported)
        })?;
        if file.do_convert_rgb == Some(false) {
            let supported = "true; pictures are always read as RGB";
            return Err(unsupported("do_convert_rgb", "false".to_owned(), supported));
        }
        if let Some(order) = file.data_format.filter(|order| order != "channels_first") {
            return Err(unsupported("data_format", order, "channels_first"));
        }
        for (option, value) in &file.others {
            let idle = matches!(value, Value::Null | Value::Bool(false));
            if !idle && !option.starts_with('_') && !NO_STEPS.contains(&option.as_str()) {
                return Err(unsupported(option, value.to_string(), "null; this processor has no such step"));
            }
        }

        let kernel = match file.resample {
            None => defaults.kernel,
            Some(number) => Resample::from_pillow(number)
                .ok_or_else(|| unsupported("resample", number.to_string(), "2 (bilinear), 3 (bicubic)"))?,
        };
        let square = |edge| ImageSize::Exact { height: edge, width: edge };
        let one_number = if defaults.to_square { square } else { ImageSize::ShortestEdge };
        let size = match &file.size {
            None => defaults.size,
            Some(value) => read_size(value, one_number).ok_or_else(|| {
                let supported = r#"N, {"shortest_edge": N}, {"height": N, "width": N}"#;
                unsupported("size", value.to_string(), supported)
            })?,
        };
        let crop = match file.crop_size.as_ref().map(|value| (value, read_size(value, square))) {
            None => (224, 224),
            Some((_, Some(ImageSize::Exact { height, width }))) => (height, width),
            Some((value, _)) => {
                return Err(unsupported("crop_size", value.to_string(), r#"N, {"height": N, "width": N}"#));
            }
        };
        let (mean, std) = (file.image_mean.unwrap_or(defaults.mean), file.image_std.unwrap_or(defaults.std));
        if std.contains(&0.0) {
            return Err(unsupported("image_std", format!("{std:?}"), "numbers other than 0"));
        }
        let enabled = |flag: Option<bool>| flag.unwrap_or(true);
        Ok(Self {
            resize: enabled(file.do_resize).then_some((size, kernel)),
            crop: file.do_center_crop.unwrap_or(defaults.crops).then_some(crop),
            rescale: enabled(file.do_rescale).then_some(file.rescale_factor.unwrap_or(1.0 / 255.0)),
            normalize: enabled(file.do_normalize).then_some((mean, std)),
        })
    }
}

/// A size as transformers reads it: a number, whose meaning the caller knows, or one of two dictionaries.
fn read_size(value: &Value, number: impl Fn(usize) -> ImageSize) -> Option<ImageSize> {
    let edge = |value: &Value| value.as_u64().filter(|n| (1..=MAX_EDGE).contains(n)).map(|n| n as usize);
    if let Some(n) = edge(value) {
        return Some(number(n));
    }
    let given: Vec<_> = value.as_object()?.iter().filter(|(_, value)| !value.is_null()).collect();
    match given.as_slice() {
        [(name, n)] if *name == "shortest_edge" => edge(n).map(ImageSize::ShortestEdge),
        // Sorted by name.
        [(first, height), (second, width)] if *first == "height" && *second == "width" => {
            Some(ImageSize::Exact { height: edge(height)?, width: edge(width)? })
        }
        _ => None,
    }
}

/// Larger than any vision encoder's input, and small enough that pixel values fit into memory.
const MAX_EDGE: u64 = 16_384;
