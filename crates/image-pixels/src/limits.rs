//! The limits on the size of a picture.

use crate::{Error, Result};

/// Four 16-bit channels.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// The limit of memory for the unpacked text, colour profile and previews of a picture.
pub(crate) const METADATA_BYTES: u64 = 32 << 20;

/// The limit of memory for decoding a picture, in bytes.
pub(crate) fn max_bytes(max_pixels: u64) -> u64 {
    max_pixels.saturating_mul(MAX_BYTES_PER_PIXEL).saturating_add(METADATA_BYTES)
}

/// Refuses a picture with more than `max_pixels`.
pub(crate) fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<()> {
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(Error::TooManyPixels { width, height, max_pixels });
    }
    Ok(())
}
