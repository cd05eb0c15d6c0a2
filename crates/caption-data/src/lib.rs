//! Captioned images: sources, CLIP image processing, tokenizing, label masking, splits and batches.

mod error;
mod source;

pub use error::{Error, Result};
pub use image::RgbImage;
pub use source::CaptionSource;
