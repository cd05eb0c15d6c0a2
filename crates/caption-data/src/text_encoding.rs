//! Text files in UTF-8, or in UTF-16 with a byte-order mark.

use std::fs;
use std::path::Path;

use crate::{Error, Result, lfs};

/// The text of a file, without its byte-order mark.
///
/// # Errors
/// If the file cannot be read, is a Git LFS pointer, or has another encoding. UTF-16 without a byte-order mark
/// is recognised by its zero bytes, and is an error too, because the captions would be full of zeros.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    lfs::check(path, &bytes)?;
    let broken = |line, why: String| Error::TextEncoding { path: path.to_owned(), line, why };
    match *bytes.as_slice() {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err(broken(1, "it is UTF-32".to_owned())),
        [0xFF, 0xFE, ref text @ ..] => {
            utf16(text, u16::from_le_bytes).map_err(|line| broken(line, UTF16.to_owned()))
        }
        [0xFE, 0xFF, ref text @ ..] => {
            utf16(text, u16::from_be_bytes).map_err(|line| broken(line, UTF16.to_owned()))
        }
        _ => utf8(bytes).map_err(|(line, why)| broken(line, why)),
    }
}

const UTF16: &str = "its byte-order mark says UTF-16, but its bytes are not";

/// The text, or the line of the first invalid character.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> std::result::Result<String, usize> {
    let (pairs, rest) = bytes.as_chunks();
    let mut text = String::with_capacity(pairs.len());
    for character in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        text.push(character.map_err(|_| lines(text.as_bytes()))?);
    }
    if rest.is_empty() { Ok(text) } else { Err(lines(text.as_bytes())) }
}

fn utf8(bytes: Vec<u8>) -> std::result::Result<String, (usize, String)> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let (bytes, at) = (error.as_bytes(), error.utf8_error().valid_up_to());
        let why = format!("byte 0x{:02x} is no part of it; it may be Windows-1252 or Latin-1", bytes[at]);
        (lines(&bytes[..at]), why)
    })?;
    if let Some(at) = text.find('\0') {
        let why = "it has zero bytes, like UTF-16 without a byte-order mark".to_owned();
        return Err((lines(&text.as_bytes()[..at]), why));
    }
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The number of the line that follows this text, counted from 1.
fn lines(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
