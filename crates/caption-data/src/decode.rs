use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits, RgbImage};

use crate::{Error, Result, png};

/// Turns the bytes of a picture file into upright RGB pixels, as `datasets` and Pillow do:
/// `exif_transpose(Image.open(file)).convert("RGB")`.
///
/// PNG, JPEG, GIF (its first frame), WebP and BMP are read. What becomes of the modes that are not RGB:
///
/// | file | pixels |
/// |---|---|
/// | palette | its colours; transparency is dropped |
/// | gray, black and white | repeated three times |
/// | with alpha | alpha is dropped: hidden colours show, nothing is blended |
/// | 16-bit gray | levels above 255 become 255, as in Pillow; the others stay as they are |
/// | 16-bit colour or with alpha | the high byte |
/// | CMYK JPEG | `(255 - c)(255 - k) / 255`, without a colour profile |
///
/// The pixels equal Pillow's exactly but for two kinds of files. The decoder of JPEG differs from libjpeg-turbo: by
/// 1 or 2 of 255 levels, and where colours are stored at a lower resolution by up to about 6, on average by less than
/// a half. And where the first frame of a GIF is smaller than its canvas, the rest is black; Pillow gives it the
/// transparent colour of the palette, or the first.
///
/// A picture that is cut short, broken, of an unknown kind or too large is an error, and so is a panic of a
/// decoder.
///
/// ```
/// use caption_data::ImageDecoder;
///
/// let bmp = [
///     b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0".as_slice(), // 58 bytes, pixels from byte 54
///     b"\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0", // one by one pixel of 24 bits
///     &[0; 24],
///     b"\x03\x02\x01\0", // blue, green, red, padding
/// ]
/// .concat();
/// assert_eq!(ImageDecoder::default().decode(&bmp)?.get_pixel(0, 0).0, [1, 2, 3]);
/// # Ok::<(), caption_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDecoder {
    /// Larger pictures are refused by their header, before memory is taken for them. The default is 64
    /// million.
    pub max_pixels: u64,
}

impl Default for ImageDecoder {
    fn default() -> Self {
        Self { max_pixels: 64_000_000 }
    }
}

impl ImageDecoder {
    /// Decodes a picture file.
    ///
    /// # Errors
    /// If it is not a complete picture of a supported kind with at most [`max_pixels`](Self::max_pixels)
    /// pixels.
    pub fn decode(&self, file: &[u8]) -> Result<RgbImage> {
        // A decoder's panic must not take the training run with it. Nothing outlives the call that could be
        // left broken.
        catch_unwind(AssertUnwindSafe(|| self.decode_unguarded(file)))
            .unwrap_or_else(|_| Err(Error::Decode { why: "the decoder panicked on it".to_owned() }))
    }

    fn decode_unguarded(&self, file: &[u8]) -> Result<RgbImage> {
        let broken = |error: image::ImageError| Error::Decode { why: error.to_string() };
        let format = guess_format(file)?;
        if format == ImageFormat::Jpeg && !jpeg_is_complete(file) {
            return Err(Error::Decode { why: "the JPEG is cut short: it has no end marker".to_owned() });
        }
        let mut reader = ImageReader::with_format(Cursor::new(file), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc =
            Some(self.max_pixels.saturating_mul(MAX_BYTES_PER_PIXEL).saturating_add(METADATA_BYTES));
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(broken)?;

        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(Error::TooManyPixels { width, height, max_pixels: self.max_pixels });
        }
        let (exif, xmp) = if format == ImageFormat::Png {
            let metadata = png::Metadata::read(file, METADATA_BYTES);
            (metadata.exif, metadata.xmp)
        } else {
            let exif = decoder.exif_metadata().map_err(broken)?.unwrap_or_default();
            (exif, decoder.xmp_metadata().map_err(broken)?.unwrap_or_default())
        };
        let orientation = Orientation::from_exif_chunk(&exif).unwrap_or_else(|| xmp_orientation(&xmp));
        let mut color = decoder.color_type();
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(broken)?;
        if color == ColorType::La16 && format == ImageFormat::Png && png::is_gray_without_alpha(file) {
            // The decoder made an alpha channel of the level that the file calls transparent.
            pixels = pixels.chunks_exact(4).flat_map(|p| [p[0], p[1]]).collect();
            color = ColorType::L16;
        }

        let rgb = RgbImage::from_raw(width, height, to_rgb(pixels, color)?);
        let rgb = rgb.ok_or_else(|| Error::Decode { why: "its pixels do not fill its frame".to_owned() })?;
        let mut upright = DynamicImage::ImageRgb8(rgb);
        upright.apply_orientation(orientation);
        Ok(upright.into_rgb8())
    }
}

/// The kinds of pictures that are read, for messages.
pub(crate) const KINDS: &str = "PNG, JPEG, GIF, WebP, BMP, TIFF, ICO, PNM, TGA or QOI";

/// Four 16-bit channels.
const MAX_BYTES_PER_PIXEL: u64 = 8;

/// What text, colour profiles and previews of a picture may take, unpacked.
const METADATA_BYTES: u64 = 32 << 20;

fn guess_format(file: &[u8]) -> Result<ImageFormat> {
    if file.is_empty() {
        return Err(Error::Decode { why: "the file is empty".to_owned() });
    }
    let format = image::guess_format(file).ok().filter(ImageFormat::reading_enabled);
    format.ok_or_else(|| Error::UnknownFormat { start: file[..file.len().min(8)].escape_ascii().to_string() })
}

/// Whether an end marker follows the picture's data, without which Pillow calls a JPEG truncated. The decoder
/// would paint the missing part gray.
fn jpeg_is_complete(file: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2; // behind the start marker
    // Previews have end markers of their own: step over the segments that hold them.
    while let Some(&[0xFF, marker, ref rest @ ..]) = file.get(at..) {
        match (marker, rest) {
            (START_OF_SCAN, _) => return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]),
            (0xFF, _) => at += 1, // padding
            (_, &[high, low, ..]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => return false,
        }
    }
    false
}

/// The orientation that XMP metadata name, which Pillow goes by where EXIF has none.
fn xmp_orientation(xmp: &[u8]) -> Orientation {
    const NAME: &[u8] = b"tiff:Orientation";
    for (at, _) in xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME) {
        if let [b'=', b'"', digit, ..] | [b'>', digit, ..] = &xmp[at + NAME.len()..] {
            return Orientation::from_exif(digit.wrapping_sub(b'0')).unwrap_or(Orientation::NoTransforms);
        }
    }
    Orientation::NoTransforms
}

/// Pixels as a decoder gives them to 8-bit RGB, the way of Pillow's `convert("RGB")`.
fn to_rgb(pixels: Vec<u8>, color: ColorType) -> Result<Vec<u8>> {
    let gray = |level: u8| [level; 3];
    let high = |sample: &[u8]| (u16::from_ne_bytes([sample[0], sample[1]]) >> 8) as u8;
    Ok(match color {
        ColorType::Rgb8 => pixels,
        ColorType::Rgba8 => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::L8 => pixels.iter().flat_map(|&level| gray(level)).collect(),
        ColorType::La8 => pixels.chunks_exact(2).flat_map(|p| gray(p[0])).collect(),
        // Pillow clips the mode `I;16` and takes the high byte of every other 16-bit picture.
        ColorType::L16 => {
            let clip = |p: &[u8]| gray(u16::from_ne_bytes([p[0], p[1]]).min(255) as u8);
            pixels.chunks_exact(2).flat_map(clip).collect()
        }
        ColorType::La16 => pixels.chunks_exact(4).flat_map(|p| gray(high(p))).collect(),
        ColorType::Rgb16 => pixels.chunks_exact(2).map(high).collect(),
        ColorType::Rgba16 => {
            pixels.chunks_exact(8).flat_map(|p| [high(p), high(&p[2..]), high(&p[4..])]).collect()
        }
        other => return Err(Error::Decode { why: format!("pixels of kind {other:?} are not supported") }),
    })
}
