//! Pillow's `Image.resize` for 8-bit RGB, bit for bit.
//!
//! An output sample is a weighted mean of the inputs around its centre. The weights are those of an
//! interpolation kernel, rounded to 22 fractional bits. If the picture becomes smaller, the kernel is widened
//! so that every input counts (antialiasing). The width is changed first and then the height, with a rounding
//! to 8 bits in between. If a picture loses more than twice as many rows as columns, Pillow 13 begins with the
//! height. Older versions may not, so that levels of such tall pictures differ slightly.
//!
//! Each output depends only on its own inputs, so only the requested region is computed: the centre of a 1 x
//! 500 picture that is enlarged to 224 x 112,000 takes no longer than any other.

use std::ops::Range;

use image::RgbImage;

/// Fractional bits of a weight: 32, less 8 for a level, less 2 for sums that overshoot.
const PRECISION: u32 = 32 - 8 - 2;

/// The interpolation of a resized picture, with its number in Pillow's `Resampling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// Linear in both directions.
    Bilinear = 2,
    /// Cubic in both directions, as for CLIP and BLIP.
    Bicubic = 3,
}

impl Resample {
    /// The interpolation with this number in Pillow's `Resampling`; `None` for the others.
    pub fn from_pillow(number: u64) -> Option<Self> {
        [Self::Bilinear, Self::Bicubic].into_iter().find(|kernel| *kernel as u64 == number)
    }

    /// How far from its centre the kernel reaches.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// The inputs of one output sample, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of `outputs` when `from` samples become `to`.
fn taps(from: usize, to: usize, outputs: Range<usize>, kernel: Resample) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = kernel.support() * stretch;
    let one = |output| {
        let centre = (output as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let last = ((centre + reach + 0.5) as usize).min(from);
        let raw = (first..last).map(|input| kernel.at((input as f64 - centre + 0.5) * (1.0 / stretch)));
        let raw: Vec<f64> = raw.collect();
        let mut sum = 0.0;
        raw.iter().for_each(|weight| sum += weight);
        let fixed = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum } * f64::from(1 << PRECISION);
            (weight + 0.5f64.copysign(weight)) as i32
        };
        Taps { first, weights: raw.iter().map(fixed).collect() }
    };
    outputs.map(one).collect()
}

/// Resizes a picture to `width` x `height` pixels, to the same levels as Pillow's `Image.resize`. A picture without pixels
/// becomes black.
///
/// ```
/// use image_pixels::{Resample, RgbImage, resize};
///
/// let image = RgbImage::from_fn(40, 20, |x, _| image::Rgb([6 * x as u8; 3]));
/// let small = resize(&image, (2, 1), Resample::Bilinear);
/// assert_eq!(small.into_raw(), [68, 68, 68, 166, 166, 166]);
/// ```
pub fn resize(image: &RgbImage, (width, height): (usize, usize), kernel: Resample) -> RgbImage {
    if image.is_empty() {
        return RgbImage::new(width as u32, height as u32);
    }
    resize_region(image, (width, height), 0..width, 0..height, kernel)
}

/// Resizes to `width` x `height` and returns the given region of the result. The region must lie inside it.
pub(crate) fn resize_region(
    image: &RgbImage,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    kernel: Resample,
) -> RgbImage {
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let across = taps(from_width, width, columns, kernel);
    let down = taps(from_height, height, rows, kernel);
    let pixels = image.as_raw();
    let stride = from_width * 3;

    let output = if height < from_height && from_height - height > 2 * from_width.saturating_sub(width) {
        mix_columns(&mix_rows(pixels, stride, &down, 0), stride, &across)
    } else {
        let first = down.first().map_or(0, |tap| tap.first);
        let end = down.last().map_or(0, |tap| tap.first + tap.weights.len());
        let narrow = mix_columns(&pixels[first * stride..end * stride], stride, &across);
        mix_rows(&narrow, across.len() * 3, &down, first)
    };
    // There are exactly as many samples as the size needs.
    RgbImage::from_raw(across.len() as u32, down.len() as u32, output).unwrap_or_default()
}

/// Resamples every row of `stride` samples: the pass that changes the width.
fn mix_columns(pixels: &[u8], stride: usize, taps: &[Taps]) -> Vec<u8> {
    let mut output = vec![0; pixels.len() / stride * taps.len() * 3];
    for (row, output) in pixels.chunks_exact(stride).zip(output.chunks_exact_mut(taps.len() * 3)) {
        for (tap, output) in taps.iter().zip(output.chunks_exact_mut(3)) {
            let [mut red, mut green, mut blue] = [ROUNDING; 3];
            for (pixel, weight) in row[tap.first * 3..].chunks_exact(3).zip(&tap.weights) {
                red += i32::from(pixel[0]) * weight;
                green += i32::from(pixel[1]) * weight;
                blue += i32::from(pixel[2]) * weight;
            }
            output.copy_from_slice(&[round(red), round(green), round(blue)]);
        }
    }
    output
}

/// Resamples every column: the pass that changes the height. Rows have `stride` samples; the first is row
/// `first_row` of the picture.
fn mix_rows(pixels: &[u8], stride: usize, taps: &[Taps], first_row: usize) -> Vec<u8> {
    let mut output = Vec::with_capacity(taps.len() * stride);
    let mut sums = vec![0; stride];
    for tap in taps {
        sums.fill(ROUNDING);
        for (row, weight) in pixels[(tap.first - first_row) * stride..].chunks_exact(stride).zip(&tap.weights)
        {
            for (sum, level) in sums.iter_mut().zip(row) {
                *sum += i32::from(*level) * weight;
            }
        }
        output.extend(sums.iter().map(|sum| round(*sum)));
    }
    output
}

/// One half, so that the shift in [`round`] rounds to nearest.
const ROUNDING: i32 = 1 << (PRECISION - 1);

fn round(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
