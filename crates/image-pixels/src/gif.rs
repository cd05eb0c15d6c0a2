//! The first frame of a GIF on its canvas.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::{Rgb, RgbImage};

use crate::limits::check_size;
use crate::{Error, Result};

/// Decodes the first frame as Pillow does. A frame that is smaller than the canvas is surrounded by the
/// palette's transparent colour, or by its first. A frame that reaches beyond the canvas enlarges it.
pub(crate) fn decode(file: &[u8], max_pixels: u64) -> Result<RgbImage> {
    let broken = |error: DecodingError| Error::Decode { why: error.to_string() };
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Unlimited); // sizes are checked below, before memory is taken
    let mut decoder = options.read_info(Cursor::new(file)).map_err(broken)?;
    let (mut width, mut height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let no_frame = || Error::Decode { why: "the GIF has no frame".to_owned() };
    let frame = decoder.next_frame_info().map_err(broken)?.ok_or_else(no_frame)?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (columns, transparent, local) = (u32::from(frame.width), frame.transparent, frame.palette.clone());
    width = width.max(left + columns);
    height = height.max(top + u32::from(frame.height));
    check_size(width, height, max_pixels)?;

    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(broken)?;
    let palette = local.as_deref().or(decoder.global_palette());
    let color = |index: u8| match palette {
        // Without a palette, Pillow uses levels of gray.
        None => Rgb([index; 3]),
        Some(palette) => {
            let color = palette.chunks_exact(3).nth(index.into());
            Rgb(color.map_or([0; 3], |color| [color[0], color[1], color[2]]))
        }
    };
    let mut image = RgbImage::from_pixel(width, height, color(transparent.unwrap_or(0)));
    for (y, row) in (top..).zip(indices.chunks_exact(columns.max(1) as usize)) {
        for (x, index) in (left..).zip(row) {
            image.put_pixel(x, y, color(*index));
        }
    }
    Ok(image)
}
