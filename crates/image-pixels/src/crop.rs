//! The centre of a picture, as transformers' `center_crop` returns it.

use std::ops::Range;

use image::{RgbImage, imageops};

use crate::resize::resize_region;
use crate::{Resample, resize};

/// The `width` x `height` pixels in the centre of a picture. If the picture is smaller, a black border surrounds it.
///
/// ```
/// use image_pixels::{RgbImage, centre_crop};
///
/// let image = RgbImage::from_fn(5, 1, |x, _| image::Rgb([x as u8 + 1; 3]));
/// let levels = |image: RgbImage| image.pixels().map(|pixel| pixel[0]).collect::<Vec<_>>();
/// assert_eq!(levels(centre_crop(&image, (3, 1))), [2, 3, 4]);
/// assert_eq!(levels(centre_crop(&image, (7, 1))), [0, 1, 2, 3, 4, 5, 0]);
/// ```
pub fn centre_crop(image: &RgbImage, (width, height): (usize, usize)) -> RgbImage {
    let (columns, left) = centre(image.width() as usize, width);
    let (rows, top) = centre(image.height() as usize, height);
    let (x, y) = (columns.start as u32, rows.start as u32);
    let inside = imageops::crop_imm(image, x, y, columns.len() as u32, rows.len() as u32).to_image();
    padded(inside, (width, height), (left, top))
}

/// [`resize()`] to `size` and then [`centre_crop`] to `crop`, each as width and height in pixels. Only the pixels of the crop are
/// computed.
pub fn resize_and_crop(
    image: &RgbImage,
    size: (usize, usize),
    crop: (usize, usize),
    kernel: Resample,
) -> RgbImage {
    if image.is_empty() {
        return centre_crop(&resize(image, size, kernel), crop);
    }
    if size == (image.width() as usize, image.height() as usize) {
        return centre_crop(image, crop);
    }
    let (columns, left) = centre(size.0, crop.0);
    let (rows, top) = centre(size.1, crop.1);
    padded(resize_region(image, size, columns, rows, kernel), crop, (left, top))
}

/// The picture with its upper left corner at `(left, top)` of a black one of `width` x `height` pixels.
fn padded(image: RgbImage, (width, height): (usize, usize), (left, top): (usize, usize)) -> RgbImage {
    if image.dimensions() == (width as u32, height as u32) {
        return image;
    }
    let mut padded = RgbImage::new(width as u32, height as u32);
    imageops::replace(&mut padded, &image, left as i64, top as i64);
    padded
}

/// The range of `length` samples inside a centred window of `window` samples, and where in the window it
/// begins.
fn centre(length: usize, window: usize) -> (Range<usize>, usize) {
    if length >= window {
        let first = (length - window) / 2;
        (first..first + window, 0)
    } else {
        (0..length, (window - length).div_ceil(2))
    }
}
