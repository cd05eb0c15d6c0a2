use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Truncates a log before the first line that `is_later` than the checkpoint of a resumed run, because the run writes these
/// lines again. Also removes an unfinished last line, which a killed process leaves.
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
