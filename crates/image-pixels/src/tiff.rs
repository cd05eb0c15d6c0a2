//! TIFF files in colour modes that the image crate refuses, or converts to RGB unlike Pillow.

use std::borrow::Cow;
use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{ByteOrder, Tag};
use tiff::{ColorType, TiffError};

use crate::limits::{check_size, max_bytes};
use crate::{Error, Result};

type File<'a> = Decoder<Cursor<&'a [u8]>>;

/// The values of the tag `PhotometricInterpretation` that matter here.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

/// The value of the tag `ExtraSamples` for colours that are multiplied by their alpha.
const PREMULTIPLIED: u16 = 1;

/// How to convert samples to RGB.
enum Mode {
    /// Indices of a palette: the bits of an index, the samples of a pixel, and the colours (all reds, all
    /// greens, all blues).
    Palette {
        bits: u8,
        samples: usize,
        colors: Vec<u16>,
    },
    /// Gray levels of 2 or 4 bits.
    Gray {
        bits: u8,
    },
    /// Gray levels of 16 bits where 0 is white. Pillow does not invert them.
    WhiteIsZero16,
    /// Gray levels and alpha.
    GrayAlpha,
    Cmyk,
    /// RGB multiplied by its alpha.
    Premultiplied,
}

/// Decodes a file in one of these modes, upright; `None` if it is in another.
pub(crate) fn decode(file: &[u8], max_pixels: u64) -> Result<Option<RgbImage>> {
    let gray: Vec<u8>; // lives longer than its decoder
    let Ok(mut decoder) = Decoder::new(Cursor::new(file)) else { return Ok(None) };
    let (width, height) = decoder.dimensions().map_err(broken)?;
    check_size(width, height, max_pixels)?;
    if decoder.find_tag_unsigned::<u16>(Tag::FillOrder).ok().flatten() == Some(2) {
        let why = "its bits are stored in reverse order (FillOrder 2); convert it to PNG or JPEG".to_owned();
        return Err(Error::Decode { why });
    }
    let photometric = decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).map_err(broken)?;
    let orientation = decoder.find_tag_unsigned::<u16>(Tag::Orientation).ok().flatten();
    let mode = if photometric == Some(PALETTE) {
        let colors = decoder.get_tag_u16_vec(Tag::ColorMap).map_err(broken)?;
        gray = with_gray_indices(file, &mut decoder);
        decoder = Decoder::new(Cursor::new(gray.as_slice())).map_err(broken)?;
        palette(decoder.colortype().map_err(broken)?, colors)
    } else {
        other_mode(&mut decoder, photometric)?
    };
    let Some(mode) = mode else { return Ok(None) };
    let samples = read(decoder, max_pixels)?;
    let pixels = to_rgb(&samples, &mode, width as usize);
    let image = RgbImage::from_raw(width, height, pixels);
    let image = image.ok_or_else(|| Error::Decode { why: "its pixels do not fill its frame".to_owned() })?;
    let mut upright = DynamicImage::ImageRgb8(image);
    let orientation = orientation.and_then(|value| Orientation::from_exif(value.min(255) as u8));
    upright.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(Some(upright.into_rgb8()))
}

fn broken(error: TiffError) -> Error {
    let advice = match error {
        TiffError::UnsupportedError(_) => "; convert it to PNG or JPEG",
        _ => "",
    };
    Error::Decode { why: format!("{error}{advice}") }
}

/// The mode of a file without a palette; `None` for those that the image crate converts as Pillow does.
fn other_mode(decoder: &mut File<'_>, photometric: Option<u16>) -> Result<Option<Mode>> {
    // The image crate reports modes that it does not read.
    let Ok(color) = decoder.colortype() else { return Ok(None) };
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(broken)?;
    let is_premultiplied = extra.is_some_and(|extra| extra.first() == Some(&PREMULTIPLIED));
    Ok(match color {
        ColorType::Gray(bits @ (2 | 4)) => Some(Mode::Gray { bits }),
        ColorType::Gray(16) if photometric == Some(WHITE_IS_ZERO) => Some(Mode::WhiteIsZero16),
        // Pillow does not convert gray levels that are multiplied by their alpha.
        ColorType::Multiband { bit_depth: 8, num_samples: 2 } if !is_premultiplied => Some(Mode::GrayAlpha),
        ColorType::CMYK(8 | 16) => Some(Mode::Cmyk),
        ColorType::RGBA(8 | 16) if is_premultiplied => Some(Mode::Premultiplied),
        _ => None,
    })
}

/// The mode of a file with a palette, given the type of its indices.
fn palette(indices: ColorType, colors: Vec<u16>) -> Option<Mode> {
    match indices {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) => Some(Mode::Palette { bits, samples: 1, colors }),
        ColorType::Multiband { bit_depth: 8, num_samples } => {
            Some(Mode::Palette { bits: 8, samples: num_samples.into(), colors })
        }
        _ => None,
    }
}

/// The file with its indices declared as gray levels, since the decoder does not return indices.
fn with_gray_indices(file: &[u8], decoder: &mut File<'_>) -> Vec<u8> {
    const PHOTOMETRIC: u16 = 262;
    const SHORT: u16 = 3;
    let mut file = file.to_vec();
    let is_big = matches!(file.get(2..4), Some([43, 0] | [0, 43]));
    // Bytes of the number of entries, of an entry, and of an entry before its value.
    let (count, entry, value) = if is_big { (8, 20, 12) } else { (2, 12, 8) };
    let short: fn(u16) -> [u8; 2] = match decoder.byte_order() {
        ByteOrder::LittleEndian => u16::to_le_bytes,
        ByteOrder::BigEndian => u16::to_be_bytes,
    };
    let start = decoder.ifd_pointer().map_or(0, |pointer| pointer.0 as usize).saturating_add(count);
    let entries = file.get_mut(start..).unwrap_or_default().chunks_exact_mut(entry);
    for entry in entries {
        if entry[..2] == short(PHOTOMETRIC) {
            entry[2..4].copy_from_slice(&short(SHORT));
            entry[value..value + 2].copy_from_slice(&short(BLACK_IS_ZERO));
            break;
        }
    }
    file
}

/// Samples of up to 8 bits as in the file, and of 16 bits.
enum Samples {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
}

fn read(decoder: File<'_>, max_pixels: u64) -> Result<Samples> {
    let max_bytes = usize::try_from(max_bytes(max_pixels)).unwrap_or(usize::MAX);
    let mut limits = Limits::default();
    limits.decoding_buffer_size = max_bytes;
    limits.intermediate_buffer_size = max_bytes;
    let mut decoder = decoder.with_limits(limits);
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(broken)?;
    let unsupported = |what: &str| Error::Decode { why: format!("{what}; convert it to PNG or JPEG") };
    if layout.planes > 1 {
        return Err(unsupported("its colours are stored one after the other, which is not supported"));
    }
    match samples {
        DecodingResult::U8(samples) => Ok(Samples::Bytes(samples)),
        DecodingResult::U16(samples) => Ok(Samples::Words(samples)),
        _ => Err(unsupported("its samples are not unsigned integers, which is not supported")),
    }
}

/// Converts like Pillow's `convert("RGB")`, row by row.
fn to_rgb(samples: &Samples, mode: &Mode, width: usize) -> Vec<u8> {
    // Pillow reads the high byte of 16 bits, except for gray levels.
    let bytes = || match samples {
        Samples::Bytes(bytes) => Cow::Borrowed(bytes.as_slice()),
        Samples::Words(words) => Cow::Owned(words.iter().map(|word| (word >> 8) as u8).collect()),
    };
    let pixels = |size: usize, rgb: &dyn Fn(&[u8]) -> [u8; 3]| {
        bytes().chunks_exact(size).flat_map(rgb).collect::<Vec<u8>>()
    };
    match mode {
        Mode::Palette { bits: 8, samples, colors } => pixels(*samples, &|p| color(colors, p[0])),
        Mode::Palette { bits, colors, .. } => {
            unpacked(&bytes(), *bits, width).flat_map(|index| color(colors, index)).collect()
        }
        Mode::Gray { bits } => {
            let step = 255 / ((1u8 << *bits) - 1);
            unpacked(&bytes(), *bits, width).flat_map(|level| [level * step; 3]).collect()
        }
        Mode::WhiteIsZero16 => match samples {
            // The decoder has inverted them.
            Samples::Words(words) => words.iter().flat_map(|word| [(!word).min(255) as u8; 3]).collect(),
            Samples::Bytes(_) => Vec::new(),
        },
        Mode::GrayAlpha => pixels(2, &|p| [p[0]; 3]),
        Mode::Cmyk => pixels(4, &|p| [p[0], p[1], p[2]].map(|ink| without_ink(ink, p[3]))),
        Mode::Premultiplied => pixels(4, &|p| [p[0], p[1], p[2]].map(|level| divided(level, p[3]))),
    }
}

/// The colour of an index; black for an index beyond the palette.
fn color(colors: &[u16], index: u8) -> [u8; 3] {
    let count = colors.len() / 3;
    let level =
        |channel: usize| colors.get(channel * count + usize::from(index)).map_or(0, |c| (c >> 8) as u8);
    if usize::from(index) < count { [level(0), level(1), level(2)] } else { [0; 3] }
}

/// The samples of 1, 2 or 4 bits in rows that begin at a byte.
fn unpacked(bytes: &[u8], bits: u8, width: usize) -> impl Iterator<Item = u8> {
    let in_byte = usize::from(8 / bits);
    let rows = bytes.chunks_exact(width.div_ceil(in_byte).max(1));
    rows.flat_map(move |row| {
        (0..width).map(move |x| {
            let shift = 8 - usize::from(bits) * (x % in_byte + 1);
            (row[x / in_byte] >> shift) & ((1u16 << bits) - 1) as u8
        })
    })
}

/// The level of a colour that is printed with an ink and with black: Pillow's formula, with its rounding.
fn without_ink(ink: u8, black: u8) -> u8 {
    let white = 255 - black;
    let product = u32::from(ink) * u32::from(white) + 128;
    white.saturating_sub((((product >> 8) + product) >> 8) as u8)
}

/// A level divided by its alpha, as Pillow does when it reads the file.
fn divided(level: u8, alpha: u8) -> u8 {
    (u32::from(level) * 255).checked_div(alpha.into()).unwrap_or(0).min(255) as u8
}
