use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Cuts a log of lines before the first one that `is_later` than the step that a run resumes from, as the run writes what
/// follows again. Also cuts a last line that has no end: the process was ended while it wrote it.
pub(super) fn rewind(file: &mut File, is_later: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let kept = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .take_while(|line| line.ends_with(b"\n") && !is_later(&String::from_utf8_lossy(line)));
    let kept = kept.map(<[u8]>::len).sum::<usize>() as u64;
    if kept < bytes.len() as u64 {
        file.set_len(kept)?;
    }
    file.seek(SeekFrom::End(0)).map(|_| ())
}
