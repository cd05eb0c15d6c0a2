#![doc = include_str!("../README.md")]

mod crop;
mod decode;
mod error;
mod gif;
mod ico;
mod jpeg;
mod kind;
mod limits;
mod planes;
mod png;
mod pnm;
mod resize;
mod tiff;

pub use crop::{centre_crop, resize_and_crop};
pub use decode::ImageDecoder;
pub use error::{Error, Result};
pub use image::RgbImage;
pub use kind::is_lfs_pointer;
pub use planes::planes;
pub use resize::{Resample, resize};
