//! The format of a picture file, by its bytes.

use image::ImageFormat;

use crate::{Error, Result};

/// The supported formats, for messages.
pub(crate) const KINDS: &str = "PNG, JPEG, GIF, WebP, BMP, TIFF, ICO, PNM, TGA or QOI";

/// Whether the bytes are a Git LFS pointer: the small text file that replaces a large file, of any kind, in a clone without `git lfs`.
pub fn is_lfs_pointer(file: &[u8]) -> bool {
    file.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// The format of a picture file.
///
/// # Errors
/// If the format is not supported.
pub(crate) fn kind_of(file: &[u8]) -> Result<ImageFormat> {
    if file.is_empty() {
        return Err(Error::Decode { why: "the file is empty".to_owned() });
    }
    if is_lfs_pointer(file) {
        return Err(Error::LfsPointer);
    }
    if let Some(kind) = unread(file) {
        return Err(Error::UnreadFormat { kind });
    }
    let format = image::guess_format(file).ok().filter(ImageFormat::reading_enabled);
    let start = || file[..file.len().min(8)].escape_ascii().to_string();
    format
        .or_else(|| is_big_tiff(file).then_some(ImageFormat::Tiff))
        .or_else(|| is_tga(file).then_some(ImageFormat::Tga))
        .ok_or_else(|| Error::UnknownFormat { start: start() })
}

/// The name of a format that is known but not supported.
fn unread(file: &[u8]) -> Option<&'static str> {
    let starts = |start: &[u8]| file.starts_with(start);
    if let Some(brands) = file.get(4..64.min(file.len())).and_then(|header| header.strip_prefix(b"ftyp")) {
        // The major brand may be the general `mif1`, with the specific one among the compatible brands that
        // follow.
        let has = |names: &[&[u8]]| brands.chunks_exact(4).any(|brand| names.contains(&brand));
        return if has(&[b"avif", b"avis"]) {
            Some("AVIF")
        } else {
            has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"]).then_some("HEIC")
        };
    }
    if starts(b"\xFF\x0A") || starts(b"\0\0\0\x0CJXL ") {
        return Some("JPEG XL");
    }
    if starts(b"\xFF\x4F\xFF\x51") || starts(b"\0\0\0\x0CjP  ") {
        return Some("JPEG 2000");
    }
    is_svg(file).then_some("SVG")
}

fn is_svg(file: &[u8]) -> bool {
    let text = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file).trim_ascii_start();
    let is_xml =
        text.starts_with(b"<?xml") || text.starts_with(b"<!--") || text.starts_with(b"<!DOCTYPE svg");
    let has_root = || text[..text.len().min(4096)].windows(4).any(|window| window == b"<svg");
    text.starts_with(b"<svg") || is_xml && has_root()
}

/// Whether it is a BigTIFF, whose offsets have 8 bytes.
fn is_big_tiff(file: &[u8]) -> bool {
    file.starts_with(b"II+\0") || file.starts_with(b"MM\0+")
}

/// Whether the header is that of a TGA, which has no signature. This is Pillow's test.
fn is_tga(file: &[u8]) -> bool {
    let Some(header) = file.first_chunk::<18>() else { return false };
    let [_, color_map, kind, .., depth, _] = *header;
    let size = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (width, height) = (size(12), size(14));
    color_map <= 1
        && width > 0
        && height > 0
        && [1, 8, 16, 24, 32].contains(&depth)
        && [1, 2, 3, 9, 10, 11].contains(&kind)
}
