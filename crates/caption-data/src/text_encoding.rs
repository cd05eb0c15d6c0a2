//! Text files in UTF-8, or in UTF-16 with a byte-order mark.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

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

/// The lines of a text file with their numbers, counted from 1, one after another: of UTF-8 only one is in memory.
///
/// # Errors
/// As [`read_text`], and those of `visit`. An encoding error of a line comes after the lines before it.
pub(crate) fn for_each_line(path: &Path, visit: &mut dyn FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut lines = match Text::open(path)? {
        Text::Whole(text) => {
            return text.lines().enumerate().try_for_each(|(at, line)| visit(at + 1, line));
        }
        Text::Lines(lines) => lines,
    };
    let mut line = String::new();
    while lines.next_into(&mut line)? {
        let line = line.strip_suffix('\n').unwrap_or(&line);
        visit(lines.number, line.strip_suffix('\r').unwrap_or(line))?;
    }
    Ok(())
}

/// The text of a file to be read from its start to its end: of UTF-8 only one line is in memory.
///
/// # Errors
/// As [`read_text`]. An encoding error of a line comes when the line is read, as the source of an [`io::Error`].
pub(crate) fn open_text(path: &Path) -> Result<Box<dyn Read>> {
    Ok(match Text::open(path)? {
        Text::Whole(text) => Box::new(io::Cursor::new(text)),
        Text::Lines(lines) => Box::new(LineReader { lines, line: String::new(), done: 0 }),
    })
}

/// An open text file.
enum Text {
    /// UTF-16.
    Whole(String),
    Lines(Lines),
}

impl Text {
    fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        lfs::check_start(path, &file)?;
        let mut reader = BufReader::new(file);
        let start = reader.fill_buf().map_err(io)?;
        let marks = [&[0xFF, 0xFE][..], &[0xFE, 0xFF], &[0, 0, 0xFE, 0xFF]];
        if marks.iter().any(|mark| start.starts_with(mark)) {
            return read_text(path).map(Self::Whole);
        }
        Ok(Self::Lines(Lines { path: path.to_owned(), reader, number: 0 }))
    }
}

/// The lines of a file in UTF-8.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    /// The number of the last line that was read, counted from 1.
    number: usize,
}

impl Lines {
    /// Reads the next line into `line`, with its end and without a byte-order mark; `false` at the end of the file.
    fn next_into(&mut self, line: &mut String) -> Result<bool> {
        let mut bytes = std::mem::take(line).into_bytes();
        bytes.clear();
        let read = self.reader.read_until(b'\n', &mut bytes);
        let count = read.map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.number += 1;
        *line = checked(bytes).map_err(|(_, why)| Error::TextEncoding {
            path: self.path.clone(),
            line: self.number,
            why,
        })?;
        if self.number == 1 && without_mark(line).len() < line.len() {
            *line = without_mark(line).to_owned();
        }
        Ok(count > 0)
    }
}

/// Lines as a stream of bytes.
struct LineReader {
    lines: Lines,
    line: String,
    /// Bytes of the line that are read.
    done: usize,
}

impl Read for LineReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.done == self.line.len() {
            self.done = 0;
            if !self.lines.next_into(&mut self.line).map_err(io::Error::other)? {
                return Ok(0);
            }
        }
        let count = (&self.line.as_bytes()[self.done..]).read(to)?;
        self.done += count;
        Ok(count)
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
    let text = checked(bytes)?;
    let rest = without_mark(&text);
    Ok(if rest.len() == text.len() { text } else { rest.to_owned() })
}

fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The text, or the line and the fault of the first bytes that are none.
fn checked(bytes: Vec<u8>) -> std::result::Result<String, (usize, String)> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let (bytes, at) = (error.as_bytes(), error.utf8_error().valid_up_to());
        let why = format!("byte 0x{:02x} is no part of it; it may be Windows-1252 or Latin-1", bytes[at]);
        (lines(&bytes[..at]), why)
    })?;
    if let Some(at) = text.find('\0') {
        let why = "it has zero bytes, like UTF-16 without a byte-order mark".to_owned();
        return Err((lines(&text.as_bytes()[..at]), why));
    }
    Ok(text)
}

/// The number of the line that follows this text, counted from 1.
fn lines(before: &[u8]) -> usize {
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a file, one after another.
    fn lines_of(path: &Path) -> Result<Vec<(usize, String)>> {
        let mut lines = Vec::new();
        for_each_line(path, &mut |number, line| {
            lines.push((number, line.to_owned()));
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn lines_are_those_of_the_whole_text_in_every_encoding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.jsonl");
        let text = "a cat\r\n\n\u{e9}t\u{e9}\n \u{feff}x\nthe last";
        let wide = |mark: u16, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(mark).chain(text.encode_utf16()).flat_map(bytes).collect()
        };
        let with_mark = format!("\u{feff}{text}").into_bytes();
        let ended = format!("{text}\n").into_bytes();
        let big = wide(0xFEFF, u16::to_be_bytes);
        for bytes in [text.as_bytes().to_vec(), with_mark, ended, big, wide(0xFEFF, u16::to_le_bytes)] {
            fs::write(&path, bytes).unwrap();
            let whole = read_text(&path).unwrap();
            let expected: Vec<_> =
                whole.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
            assert_eq!(lines_of(&path).unwrap(), expected);
            assert_eq!(io::read_to_string(open_text(&path).unwrap()).unwrap(), whole);
        }
        fs::write(&path, "").unwrap();
        assert!(lines_of(&path).unwrap().is_empty());
    }

    #[test]
    fn the_first_line_with_other_bytes_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metadata.jsonl");
        for (bytes, line, why) in [
            (&b"a\nb\n\xe9t\xe9\n"[..], 3, "byte 0xe9"),
            (b"a\nb\0c\0\n", 2, "zero bytes"),
            (b"\xff\xfe\0\0", 1, "UTF-32"),
        ] {
            fs::write(&path, bytes).unwrap();
            let streamed = open_text(&path).and_then(|mut text| {
                let read = io::read_to_string(&mut text);
                read.map_err(|error| *error.into_inner().unwrap().downcast::<Error>().unwrap())
            });
            for error in [lines_of(&path).unwrap_err(), read_text(&path).unwrap_err(), streamed.unwrap_err()]
            {
                let is_found = matches!(&error, Error::TextEncoding { line: found, why: found_why, .. }
                    if *found == line && found_why.contains(why));
                assert!(is_found, "{error}");
            }
        }
    }
}
