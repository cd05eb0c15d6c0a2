//! Icons that contain a PNG file of any mode: the image crate reads only those in RGBA.

/// Bytes of the header and of each entry of the directory.
const HEADER: usize = 6;
const ENTRY: usize = 16;

/// The PNG file of the icon's picture; `None` if the picture is a bitmap, or the file is damaged. If there are
/// several pictures, the largest is read, and among equal ones that with the fewest colours, as in Pillow.
pub(crate) fn png(file: &[u8]) -> Option<&[u8]> {
    let entries = file.get(HEADER..)?.as_chunks::<ENTRY>().0;
    let count = usize::from(u16::from_le_bytes(file.get(4..HEADER)?.try_into().ok()?));
    let best =
        entries.iter().take(count).min_by_key(|entry| (std::cmp::Reverse(area(entry)), depth(entry)))?;
    let [size, offset] =
        [8, 12].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| best[at + byte])) as usize);
    let picture = file.get(offset..offset.checked_add(size)?)?;
    picture.starts_with(b"\x89PNG\r\n\x1a\n").then_some(picture)
}

/// Number of pixels of an entry; a side of 0 means 256.
fn area(entry: &[u8; ENTRY]) -> u32 {
    let side = |byte: u8| if byte == 0 { 256 } else { u32::from(byte) };
    side(entry[0]) * side(entry[1])
}

/// Bits per pixel: the stored number, else computed from the number of colours, else a number larger than any.
fn depth(entry: &[u8; ENTRY]) -> u32 {
    match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
        (0, 0) => 256,
        (0, colours) => u32::from(colours).next_power_of_two().ilog2(),
        (bits, _) => bits.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat};

    use crate::ImageDecoder;

    /// An icon of one PNG file for each side.
    fn icon(pictures: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut file = vec![0, 0, 1, 0, pictures.len() as u8, 0];
        let mut offset = 6 + 16 * pictures.len();
        for (side, png) in pictures {
            file.extend([*side, *side, 0, 0, 1, 0, 24, 0]);
            file.extend((png.len() as u32).to_le_bytes());
            file.extend((offset as u32).to_le_bytes());
            offset += png.len();
        }
        pictures.iter().for_each(|(_, png)| file.extend(png));
        file
    }

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn icons_with_a_png_of_any_mode_have_its_pixels_and_the_largest_counts() {
        let large = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([8 * x as u8, 8 * y as u8, 7]));
        let large = DynamicImage::ImageRgb8(large);
        let small = DynamicImage::new_rgb8(16, 16);
        for picture in [large.clone(), large.grayscale(), DynamicImage::ImageRgba8(large.to_rgba8())] {
            let file = icon(&[(16, png(&small)), (32, png(&picture))]);
            assert_eq!(ImageDecoder::default().decode(&file).unwrap(), picture.to_rgb8());
        }
        let mut damaged = icon(&[(32, png(&large))]);
        damaged.truncate(40);
        assert!(ImageDecoder::default().decode(&damaged).is_err());
    }
}
