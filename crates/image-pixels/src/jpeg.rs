//! The segments of a JPEG, for the cases in which Pillow is more lenient or stricter than the decoder.

use std::borrow::Cow;

const START_OF_SCAN: u8 = 0xDA;

/// The file without the bytes before its first scan that belong to no segment. Pillow and libjpeg skip them.
pub(crate) fn without_stray_bytes(file: &[u8]) -> Cow<'_, [u8]> {
    let mut kept = Cow::Borrowed(file);
    let mut at = 2; // behind the start marker
    let mut removed = 0;
    while let Some(stray) = stray_bytes(&file[at.min(file.len())..]) {
        if stray > 0 {
            kept.to_mut().drain(at - removed..at - removed + stray);
            removed += stray;
            at += stray;
        }
        match file.get(at..) {
            Some(&[0xFF, marker, high, low, ..]) if marker != START_OF_SCAN => {
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => break,
        }
    }
    kept
}

/// The number of bytes before the next marker; `None` if there is none. A marker is 0xFF and a byte that is
/// neither 0 nor 0xFF.
fn stray_bytes(rest: &[u8]) -> Option<usize> {
    rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xFF))
}

/// Whether an end marker follows the picture's data. Without one, Pillow calls a JPEG truncated, while the
/// decoder would fill the missing part with gray.
pub(crate) fn is_complete(file: &[u8]) -> bool {
    let mut at = 2; // behind the start marker
    // Previews have end markers of their own: skip the segments that hold them.
    while let Some(&[0xFF, marker, ref rest @ ..]) = file.get(at..) {
        match (marker, rest) {
            (START_OF_SCAN, _) => return rest.windows(2).any(|pair| pair == [0xFF, 0xD9]),
            (_, &[high, low, ..]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => return false,
        }
    }
    false
}
