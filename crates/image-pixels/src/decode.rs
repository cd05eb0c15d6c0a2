use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits, RgbImage,
};

use crate::kind::kind_of;
use crate::limits::{METADATA_BYTES, check_size, max_bytes};
use crate::{Error, Result, gif, ico, jpeg, png, pnm, tiff};

/// Decodes a picture file to upright RGB pixels, as `datasets` and Pillow do:
/// `exif_transpose(Image.open(file)).convert("RGB")`.
///
/// The formats are PNG, JPEG, GIF (its first frame), WebP, BMP, TIFF, ICO, PNM, TGA and QOI. Colour modes
/// other than RGB are converted:
///
/// | file | pixels |
/// |---|---|
/// | palette | its colours; transparency is dropped |
/// | gray, black and white | repeated three times |
/// | with alpha | alpha is dropped, without blending: colours of transparent pixels become visible |
/// | 16-bit gray | levels above 255 become 255, as in Pillow; the others stay as they are |
/// | 16-bit colour or with alpha | the high byte |
/// | CMYK JPEG or TIFF | `(255 - c)(255 - k) / 255`, without a colour profile |
/// | TIFF with colours multiplied by alpha | divided by alpha, which is then dropped |
/// | PNM with another largest level than 255 | scaled to it |
///
/// The pixels equal Pillow's exactly, with these exceptions. JPEG: the decoder differs from libjpeg-turbo by
/// 1 or 2 of 255 levels; with chroma subsampling by up to about 6, and by less than half a level on average.
/// BMP and TGA of 16 bits per pixel: by 1. As in Pillow, bytes between the segments of a JPEG are skipped, and
/// a PNG may end right after its pixels. TIFF of floating-point numbers, of YCbCr colours or of bits in
/// reverse order is an error.
///
/// A picture that is truncated, broken, too large or of an unknown format is an error. A panic of a decoder is
/// returned as an error too.
///
/// ```
/// use image_pixels::ImageDecoder;
///
/// let bmp = [
///     b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0".as_slice(), // 58 bytes, pixels from byte 54
///     b"\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0", // one by one pixel of 24 bits
///     &[0; 24],
///     b"\x03\x02\x01\0", // blue, green, red, padding
/// ]
/// .concat();
/// assert_eq!(ImageDecoder::default().decode(&bmp)?.get_pixel(0, 0).0, [1, 2, 3]);
/// # Ok::<(), image_pixels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDecoder {
    /// Pictures with more pixels are refused after reading their header, before memory is allocated for them.
    /// The default is [`PILLOWS_MAX_PIXELS`](Self::PILLOWS_MAX_PIXELS).
    pub max_pixels: u64,
}

impl Default for ImageDecoder {
    fn default() -> Self {
        Self { max_pixels: Self::PILLOWS_MAX_PIXELS }
    }
}

impl ImageDecoder {
    /// The largest picture that Pillow opens: twice its `MAX_IMAGE_PIXELS`.
    pub const PILLOWS_MAX_PIXELS: u64 = 2 * 89_478_485;

    /// Decodes a picture file.
    ///
    /// # Errors
    /// If it is not a complete picture of a supported format with at most [`max_pixels`](Self::max_pixels)
    /// pixels.
    pub fn decode(&self, file: &[u8]) -> Result<RgbImage> {
        // A decoder's panic must not end the training run. Unwinding is safe here, because no state that a
        // panic could leave inconsistent outlives the call.
        catch_unwind(AssertUnwindSafe(|| self.decode_unguarded(file)))
            .unwrap_or_else(|_| Err(Error::Decode { why: "the decoder panicked on it".to_owned() }))
    }

    fn decode_unguarded(&self, file: &[u8]) -> Result<RgbImage> {
        match kind_of(file)? {
            ImageFormat::Gif => gif::decode(file, self.max_pixels),
            ImageFormat::Jpeg => {
                let file = jpeg::without_stray_bytes(file);
                if !jpeg::is_complete(&file) {
                    let why = "the JPEG is cut short: it has no end marker".to_owned();
                    return Err(Error::Decode { why });
                }
                self.decode_with(&file, ImageFormat::Jpeg)
            }
            ImageFormat::Png => self.decode_with(&png::with_end(file), ImageFormat::Png),
            ImageFormat::Tiff => match tiff::decode(file, self.max_pixels)? {
                Some(image) => Ok(image),
                None => self.decode_with(file, ImageFormat::Tiff),
            },
            ImageFormat::Pnm => match pnm::decode(file, self.max_pixels)? {
                Some(image) => Ok(image),
                None => self.decode_with(file, ImageFormat::Pnm),
            },
            ImageFormat::Ico if let Some(png) = ico::png(file) => {
                self.decode_with(&png::with_end(png), ImageFormat::Png)
            }
            format => self.decode_with(file, format),
        }
    }

    /// Decodes with the decoder of a format.
    fn decode_with(&self, file: &[u8], format: ImageFormat) -> Result<RgbImage> {
        let mut reader = ImageReader::with_format(Cursor::new(file), format);
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(max_bytes(self.max_pixels));
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(broken)?;

        let (width, height) = decoder.dimensions();
        check_size(width, height, self.max_pixels)?;
        let orientation = orientation(file, format, &mut decoder).map_err(broken)?;
        let mut color = decoder.color_type();
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(broken)?;
        if color == ColorType::La16 && format == ImageFormat::Png && png::is_gray_without_alpha(file) {
            // The decoder added an alpha channel, made from the level that the file declares transparent.
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

fn broken(error: ImageError) -> Error {
    let advice = match error {
        ImageError::Unsupported(_) => "; convert it to PNG or JPEG",
        _ => "",
    };
    Error::Decode { why: format!("{error}{advice}") }
}

/// How to turn a picture upright: its EXIF orientation, or else that of its XMP metadata.
fn orientation(
    file: &[u8],
    format: ImageFormat,
    decoder: &mut impl image::ImageDecoder,
) -> image::ImageResult<Orientation> {
    if format == ImageFormat::Tiff {
        return decoder.orientation(); // a tag of its own
    }
    let (exif, xmp) = if format == ImageFormat::Png {
        let metadata = png::Metadata::read(file, METADATA_BYTES);
        (metadata.exif, metadata.xmp)
    } else {
        let exif = decoder.exif_metadata()?.unwrap_or_default();
        (exif, decoder.xmp_metadata()?.unwrap_or_default())
    };
    Ok(Orientation::from_exif_chunk(&exif).unwrap_or_else(|| xmp_orientation(&xmp)))
}

/// The orientation in XMP metadata, which Pillow uses if EXIF has none.
fn xmp_orientation(xmp: &[u8]) -> Orientation {
    const NAME: &[u8] = b"tiff:Orientation";
    for (at, _) in xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME) {
        if let [b'=', b'"', digit, ..] | [b'>', digit, ..] = &xmp[at + NAME.len()..] {
            return Orientation::from_exif(digit.wrapping_sub(b'0')).unwrap_or(Orientation::NoTransforms);
        }
    }
    Orientation::NoTransforms
}

/// Converts decoded pixels to 8-bit RGB, like Pillow's `convert("RGB")`.
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
