//! Finds the picture files that a command line names: files, folders and patterns.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use caption_data::{Error, LeftOut, Pictures, image_pixels, pictures_of, selection};
use glob::MatchOptions;

/// The picture files for `names`, in order. A folder yields its pictures and those of its subfolders, sorted. A
/// pattern with `*`, `?`, `[…]` or `**` yields the matching pictures. Any other name is a file. Hidden files in
/// folders and matches of patterns are skipped.
///
/// # Errors
/// If a folder cannot be read, or a folder or pattern holds no pictures.
pub fn expand(names: &[PathBuf]) -> Result<Pictures> {
    let mut all = Pictures::default();
    for name in names {
        let pattern = name.to_string_lossy();
        let found = if name.is_dir() {
            pictures_of(name)?
        } else if !name.exists() && pattern.contains(['*', '?', '[']) {
            matching(&pattern)?
        } else {
            let mut one = Pictures::default();
            one.paths.push(name.clone());
            one
        };
        if found.paths.is_empty() {
            bail!(
                "no pictures in {pattern}; they end in {}{}",
                selection::PICTURES.join(", "),
                but(&found.left_out)
            );
        }
        all.paths.extend(found.paths);
        all.left_out.extend(found.left_out);
    }
    Ok(all)
}

/// The pictures that match a pattern. As in a shell, `*` does not match hidden files, but `.*` does.
fn matching(pattern: &str) -> Result<Pictures> {
    let names_hidden = |part: &str| part.starts_with('.') && part.contains(['*', '?', '[']);
    let options = MatchOptions {
        // With this option, the glob crate finds no hidden file, even if the pattern has a leading dot.
        require_literal_leading_dot: !pattern.split(std::path::is_separator).any(names_hidden),
        ..MatchOptions::default()
    };
    let matches =
        glob::glob_with(pattern, options).with_context(|| format!("`{pattern}` is not a pattern"))?;
    let is_picture = |path: &PathBuf| path.is_file() && selection::is_picture(&path.to_string_lossy());
    let mut found = Pictures::default();
    found.paths = matches.filter_map(std::result::Result::ok).filter(is_picture).collect();
    Ok(found)
}

/// Describes the files that were found instead of pictures.
fn but(left_out: &LeftOut) -> String {
    let groups: Vec<String> = left_out.groups().map(|group| format!("; left out, {group}")).collect();
    groups.concat()
}

/// An error about a picture with its causes, and with the flag that helps if there is one.
pub fn with_flag(error: &Error) -> String {
    match error {
        Error::Row { dataset, row, source } => format!("row {row} of {dataset}: {}", with_flag(source)),
        Error::Picture(image_pixels::Error::TooManyPixels { .. }) => format!("{error} (--max-image-pixels)"),
        error => anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of empty files.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn lines(pictures: &Pictures) -> Vec<String> {
        pictures.left_out.groups().map(ToString::to_string).collect()
    }

    #[test]
    fn folders_and_patterns_are_their_pictures() {
        let dir = folder(&["b.png", "a.JPG", "notes.txt", "more/c.webp"]);
        let at = |name: &str| dir.path().join(name);
        let expand = |name: PathBuf| expand(&[name]).map(|pictures| pictures.paths);
        assert_eq!(expand(dir.path().into()).unwrap(), [at("a.JPG"), at("b.png"), at("more/c.webp")]);
        assert_eq!(expand(at("*.png")).unwrap(), [at("b.png")]);
        assert_eq!(expand(at("**/*")).unwrap().len(), 3);
        // A named file is always used; whether it is a picture is found out when it is read.
        assert_eq!(expand(at("notes.txt")).unwrap(), [at("notes.txt")]);
        assert_eq!(expand(at("none.png")).unwrap(), [at("none.png")]);
        let message = expand(at("*.gif")).unwrap_err().to_string();
        assert!(message.contains("*.gif"), "{message}");
    }

    #[test]
    fn hidden_files_and_what_systems_leave_behind_are_no_pictures() {
        let dir = folder(&[
            "a.png",
            "._a.png",
            ".b.png",
            "__MACOSX/._a.png",
            "__MACOSX/a.png",
            ".ipynb_checkpoints/a-checkpoint.png",
            "more/.c.png",
            "more/c.png",
            "__old/d.png",
        ]);
        let at = |name: &str| dir.path().join(name);
        let found = expand(&[dir.path().into()]).unwrap();
        assert_eq!(found.paths, [at("a.png"), at("more/c.png")]);
        assert_eq!(lines(&found).len(), 1);
        assert_eq!(found.left_out.count(), 3, "{:?}", lines(&found)); // .b.png, more/.c.png, __old
        assert_eq!(expand(&[at("*")]).unwrap().paths, [at("a.png")]);
        // Hidden files are used if they are named.
        assert_eq!(expand(&[at(".*.png")]).unwrap().paths, [at("._a.png"), at(".b.png")]);
        assert_eq!(expand(&[at(".b.png")]).unwrap().paths, [at(".b.png")]);
    }

    #[test]
    fn unsupported_kinds_are_counted_with_advice() {
        let dir = folder(&["a.png", "b.tif", "c.avif", "d.heic", "e.HEIC", "f.txt"]);
        let found = expand(&[dir.path().into()]).unwrap();
        assert_eq!(found.paths.len(), 2);
        assert_eq!(
            lines(&found),
            [
                "1: AVIF pictures are not read; convert them to PNG or JPEG (c.avif)",
                "2: HEIC pictures are not read; convert them to PNG or JPEG (d.heic, e.HEIC)",
            ]
        );
        let dir = folder(&["c.avif"]);
        let message = expand(&[dir.path().into()]).unwrap_err().to_string();
        assert!(
            message.contains("no pictures in") && message.contains("AVIF pictures are not read"),
            "{message}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn linked_folders_are_followed_and_loops_of_them_end() {
        use std::os::unix::fs::symlink;
        let (dir, other) = (folder(&["a/1.png"]), folder(&["2.png", "deep/3.png"]));
        symlink(other.path(), dir.path().join("linked")).unwrap();
        symlink(dir.path(), dir.path().join("a/up")).unwrap();
        let at = |name: &str| dir.path().join(name);
        let found = expand(&[dir.path().into()]).unwrap();
        assert_eq!(found.paths, [at("a/1.png"), at("linked/2.png"), at("linked/deep/3.png")]);
        // A named link is followed.
        assert_eq!(expand(&[at("linked")]).unwrap().paths, [at("linked/2.png"), at("linked/deep/3.png")]);
    }

    #[cfg(unix)]
    #[test]
    fn names_may_be_invalid_utf8() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let dir = folder(&[]);
        let path = dir.path().join(OsStr::from_bytes(b"caf\xe9.png"));
        std::fs::write(&path, "").unwrap();
        assert_eq!(expand(&[dir.path().into()]).unwrap().paths, std::slice::from_ref(&path));
        assert_eq!(expand(std::slice::from_ref(&path)).unwrap().paths, [path]);
    }

    #[test]
    fn the_flag_of_a_picture_that_is_too_large_is_named() {
        let large = || {
            let too_many =
                image_pixels::Error::TooManyPixels { width: 20_000, height: 20_000, max_pixels: 178_956_970 };
            Error::Picture(too_many)
        };
        let row = Error::Row { dataset: "art".to_owned(), row: 3, source: Box::new(large()) };
        for error in [large(), row] {
            assert!(with_flag(&error).ends_with("(--max-image-pixels)"), "{}", with_flag(&error));
        }
        assert_eq!(with_flag(&Error::BlankCaption), Error::BlankCaption.to_string());
    }
}
