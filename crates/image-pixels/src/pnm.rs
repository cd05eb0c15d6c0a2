//! PNM files of gray levels or colours. The image crate reads them too, but rounds levels unlike Pillow.

use image::RgbImage;

use crate::limits::check_size;
use crate::{Error, Result};

/// Decodes a file of the kinds P2, P3, P5 or P6 to Pillow's pixels; `None` for the others.
pub(crate) fn decode(file: &[u8], max_pixels: u64) -> Result<Option<RgbImage>> {
    let Some((is_text, is_rgb)) = kind(file) else { return Ok(None) };
    let mut header = Header { file, at: 2 };
    let [width, height, largest] = [header.number()?, header.number()?, header.number()?];
    if !(1..65536).contains(&largest) {
        return Err(broken(format!("its largest level is {largest}; it must be between 1 and 65535")));
    }
    check_size(width, height, max_pixels)?;
    let count = width as usize * height as usize * if is_rgb { 3 } else { 1 };
    let body = file.get(header.at..).unwrap_or_default();
    let levels = if is_text { text(body, count, largest)? } else { binary(body, count, largest) };
    if levels.len() < count {
        return Err(broken("it is cut short".to_owned()));
    }
    let level = |level: u32| byte(level, largest, is_rgb);
    let pixels = match is_rgb {
        true => levels.into_iter().map(level).collect(),
        false => levels.into_iter().flat_map(|gray| [level(gray); 3]).collect(),
    };
    RgbImage::from_raw(width, height, pixels).map(Some).ok_or_else(|| broken("its size is wrong".to_owned()))
}

/// Whether the levels are text, and whether they are colours.
fn kind(file: &[u8]) -> Option<(bool, bool)> {
    match file.get(..2)? {
        b"P2" => Some((true, false)),
        b"P3" => Some((true, true)),
        b"P5" => Some((false, false)),
        b"P6" => Some((false, true)),
        _ => None,
    }
}

fn broken(why: String) -> Error {
    Error::Decode { why: format!("the PNM is broken: {why}") }
}

/// Reads the numbers at the beginning of a file.
struct Header<'a> {
    file: &'a [u8],
    at: usize,
}

impl Header<'_> {
    /// The next number, and the one white-space character behind it. A comment reaches from `#` to the end of
    /// its line.
    fn number(&mut self) -> Result<u32> {
        let mut digits = String::new();
        while let Some(byte) = self.file.get(self.at) {
            self.at += 1;
            match byte {
                b'#' => {
                    let rest = &self.file[self.at..];
                    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    self.at += end.map_or(rest.len(), |end| end + 1);
                }
                byte if is_space(*byte) && digits.is_empty() => {}
                byte if is_space(*byte) => break,
                byte => digits.push(char::from(*byte)),
            }
            if digits.len() > 10 {
                break;
            }
        }
        digits.parse().map_err(|_| broken(format!("its header holds {digits:?} instead of a number")))
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0B
}

/// The levels of a text file, at most `count`.
fn text(body: &[u8], count: usize, largest: u32) -> Result<Vec<u32>> {
    let mut in_comment = false;
    let without_comments = body.iter().copied().filter(|byte| {
        let is_end = in_comment && matches!(byte, b'\n' | b'\r');
        in_comment = !is_end && (in_comment || *byte == b'#');
        !in_comment && !is_end
    });
    let body: Vec<u8> = without_comments.collect();
    let tokens = body.split(|byte| is_space(*byte)).filter(|token| !token.is_empty());
    let level = |token: &[u8]| {
        let level = str::from_utf8(token).ok().and_then(|token| token.parse::<u32>().ok());
        level.filter(|level| *level <= largest).ok_or_else(|| {
            let start = token[..token.len().min(12)].escape_ascii();
            broken(format!("\"{start}\" is not a level between 0 and {largest}"))
        })
    };
    tokens.take(count).map(level).collect()
}

/// The levels of a binary file, at most `count`: bytes, or two bytes each if the largest does not fit one.
fn binary(body: &[u8], count: usize, largest: u32) -> Vec<u32> {
    if largest < 256 {
        return body.iter().take(count).map(|byte| u32::from(*byte)).collect();
    }
    let levels = body.as_chunks::<2>().0.iter().take(count);
    levels.map(|bytes| u32::from(u16::from_be_bytes(*bytes))).collect()
}

/// A level from 0 to `largest` as a byte. Pillow scales gray levels with more than 8 bits to 16, and then clips
/// them to 255.
fn byte(level: u32, largest: u32, is_rgb: bool) -> u8 {
    let most = if largest > 255 && !is_rgb { 65535.0 } else { 255.0 };
    let scaled = f64::from(level) / f64::from(largest) * most;
    scaled.round_ties_even().min(255.0) as u8
}
