//! The chunks of a PNG that Pillow reads and the decoder does not: metadata after the pixels, and EXIF that
//! ImageMagick wrote as text. Also files without an end chunk, which Pillow accepts.

use std::borrow::Cow;
use std::io::Read;

use flate2::Crc;
use flate2::read::ZlibDecoder;

/// EXIF and XMP of a PNG; empty if there are none. If there are several, the last counts, as in Pillow.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) exif: Vec<u8>,
    pub(crate) xmp: Vec<u8>,
}

impl Metadata {
    /// Reads the metadata; unpacks at most `max_bytes` of each text.
    pub(crate) fn read(file: &[u8], max_bytes: u64) -> Self {
        let (mut found, mut profile) = (Self::default(), Vec::new());
        for (kind, data) in chunks(file) {
            if kind == b"eXIf" {
                found.exif = data.to_vec();
            } else if let Some((key, text)) = Text::read(kind, data) {
                match key {
                    b"XML:com.adobe.xmp" => found.xmp = text.unpack(max_bytes),
                    b"Raw profile type exif" => profile = unhex(&text.unpack(max_bytes)),
                    _ => {}
                }
            }
        }
        if found.exif.is_empty() {
            found.exif = profile;
        }
        if let Some(plain) = found.exif.strip_prefix(b"Exif\0\0") {
            found.exif = plain.to_vec();
        }
        found
    }
}

/// Whether the header says that pixels are gray without alpha.
pub(crate) fn is_gray_without_alpha(file: &[u8]) -> bool {
    chunks(file).next().is_some_and(|(kind, header)| kind == b"IHDR" && header.get(9) == Some(&0))
}

/// The file with an end chunk added, if it stops after its pixels or within them. Unpacking shows later
/// whether all pixels are there.
pub(crate) fn with_end(file: &[u8]) -> Cow<'_, [u8]> {
    let mut whole = SIGNATURE; // bytes of whole chunks
    let mut pixels = Vec::new();
    for (kind, data) in chunks(file) {
        match kind {
            b"IEND" => return Cow::Borrowed(file),
            b"IDAT" => pixels.extend_from_slice(data),
            _ => {}
        }
        whole += 12 + data.len();
    }
    let (before, cut) = file.split_at(whole.min(file.len()));
    let mut ended = before.to_vec();
    if let Some((length, rest)) = cut.split_first_chunk()
        && let Some(data) = rest.strip_prefix(b"IDAT")
    {
        let data = &data[..data.len().min(u32::from_be_bytes(*length) as usize)];
        pixels.extend_from_slice(data);
        if !is_start_of_zlib(&pixels) {
            return Cow::Borrowed(file); // damaged, and not only cut short
        }
        push_chunk(&mut ended, b"IDAT", data);
    }
    push_chunk(&mut ended, b"IEND", &[]);
    Cow::Owned(ended)
}

/// Whether the bytes are a zlib stream, as far as they go.
fn is_start_of_zlib(bytes: &[u8]) -> bool {
    match std::io::copy(&mut ZlibDecoder::new(bytes), &mut std::io::sink()) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
    }
}

fn push_chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut checksum = Crc::new();
    checksum.update(kind);
    checksum.update(data);
    file.extend((data.len() as u32).to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(checksum.sum().to_be_bytes());
}

/// The bytes before the first chunk.
const SIGNATURE: usize = 8;

/// Type and content of the chunks, up to one that is truncated.
fn chunks(file: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = file.get(SIGNATURE..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk()?;
        let (kind, tail) = tail.split_first_chunk()?;
        let (data, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (_checksum, tail) = tail.split_at_checked(4)?;
        rest = tail;
        Some((kind, data))
    })
}

/// The text of a chunk, as stored.
struct Text<'a> {
    is_packed: bool,
    bytes: &'a [u8],
}

impl<'a> Text<'a> {
    /// A text chunk's key and text.
    fn read(kind: &[u8; 4], data: &'a [u8]) -> Option<(&'a [u8], Self)> {
        let (key, rest) = split_at_zero(data)?;
        let (is_packed, bytes) = match kind {
            b"tEXt" => (false, rest),
            b"zTXt" => (true, rest.get(1..)?), // behind the method
            b"iTXt" => {
                // A flag for compression, the method, the language, and the translated key.
                let (_language, translated) = split_at_zero(rest.get(2..)?)?;
                (rest[0] != 0, split_at_zero(translated)?.1)
            }
            _ => return None,
        };
        Some((key, Self { is_packed, bytes }))
    }

    fn unpack(&self, max_bytes: u64) -> Vec<u8> {
        if !self.is_packed {
            return self.bytes.to_vec();
        }
        let mut text = Vec::new();
        // A broken text is read up to the fault.
        let _ = ZlibDecoder::new(self.bytes).take(max_bytes).read_to_end(&mut text);
        text
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes of a profile: an empty line, its type, its length, and lines of hexadecimal digits.
fn unhex(profile: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let lines = profile.splitn(4, |byte| *byte == b'\n');
    let digits: Vec<u8> = lines.skip(3).flatten().filter_map(digit).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
