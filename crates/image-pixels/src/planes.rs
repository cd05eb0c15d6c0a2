use image::RgbImage;

/// The numbers that a model reads for a picture: the value that `values` has for each level of red, green and blue. The result
/// has all numbers of red, row by row, then those of green and of blue: the layout `(3, height, width)`.
///
/// ```
/// use image_pixels::{RgbImage, planes};
///
/// let image = RgbImage::from_fn(2, 1, |x, _| image::Rgb([x as u8, 255, 0]));
/// let values = [0, 1, 2].map(|channel| std::array::from_fn(|level| (1000 * channel + level) as f32));
/// assert_eq!(planes(&image, &values), [0.0, 1.0, 1255.0, 1255.0, 2000.0, 2000.0]);
/// ```
pub fn planes(image: &RgbImage, values: &[[f32; 256]; 3]) -> Vec<f32> {
    let mut output = Vec::with_capacity(image.as_raw().len());
    for (channel, values) in values.iter().enumerate() {
        let pixels = image.as_raw().chunks_exact(3);
        output.extend(pixels.map(|pixel| values[usize::from(pixel[channel])]));
    }
    output
}
