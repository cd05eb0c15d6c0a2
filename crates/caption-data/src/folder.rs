use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use crate::folder_files::FolderFiles;
use crate::metadata::{MetadataFile, Record};
use crate::source::{fingerprint_of_file, row_of};
use crate::text_encoding::read_text;
use crate::{
    CaptionSource, Error, ImageDecoder, LeftOut, LeftOutReason, RecordPlace, Result, SourceOptions, selection,
};

/// A folder of picture files with captions, laid out in one of the ways of Hugging Face's `imagefolder`:
///
/// - `metadata.jsonl`, one object a line: `{"file_name": "0001.png", "text": "a red bird"}`;
/// - `metadata.csv` or `metadata.parquet` with the columns `file_name` and `text`;
/// - `metadata.json`, one array of such objects;
/// - without either, pictures with a caption in a text file of the same name: `0001.png` and `0001.txt` or
///   `0001.caption`.
///
/// `file_name` is relative to the folder of the metadata file and lies inside it. Folders may be nested, each
/// with metadata of its own. Text is UTF-8, or UTF-16 with a byte-order mark. Rows are in the order of the metadata, or
/// of the paths. Pictures that the metadata do not name are left out, and so are text files that have the name of no
/// other file, and all that is not of the training split ([`selection`]): `test/0001.png` in this folder, though not in
/// a folder `test` that is opened itself. [`left_out`](CaptionSource::left_out) says what was.
#[derive(Debug)]
pub struct ImageFolder {
    name: String,
    rows: Vec<Row>,
    left_out: LeftOut,
    decoder: ImageDecoder,
}

#[derive(Debug)]
struct Row {
    image: PathBuf,
    caption: String,
    /// Where metadata name the picture; `None` where the caption has a file of its own.
    record: Option<RecordPlace>,
}

impl ImageFolder {
    /// Reads the captions of a folder and finds its pictures. The path of a metadata file stands for its folder, of
    /// which other metadata are not read then.
    ///
    /// # Errors
    /// If a picture has no caption, if the picture of a text file has an ending that is not read, if metadata are
    /// broken (the error names the line), or if there is no row or no row with a caption.
    pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Self> {
        let path = path.as_ref();
        let mut files =
            if path.is_file() { FolderFiles::of_metadata(path)? } else { FolderFiles::find(path)? };
        let mut rows = Vec::new();
        if files.metadata.is_empty() {
            rows = rows_of_text_files(&mut files)?;
        } else {
            for path in files.metadata.clone() {
                rows.extend(rows_of_metadata(&path, &options.caption_column, &mut files)?);
            }
            let named: HashSet<&Path> = rows.iter().map(|row| row.image.as_path()).collect();
            let unnamed: Vec<_> =
                files.pictures.iter().filter(|path| !named.contains(path.as_path())).cloned().collect();
            unnamed.iter().for_each(|path| files.leave_out(LeftOutReason::NoCaption, path));
        }
        let name = path.display().to_string();
        if rows.is_empty() {
            return Err(Error::NoRows { dataset: name, why: nothing_found(&files) });
        }
        if rows.iter().all(|row| row.caption.trim().is_empty()) {
            let column = options.caption_column.clone();
            return Err(Error::NoCaptions { dataset: name, column, rows: rows.len() });
        }
        Ok(Self { name, rows, left_out: files.left_out, decoder: options.decoder.clone() })
    }

    fn row(&self, row: usize) -> Result<&Row> {
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.rows.len() };
        self.rows.get(row).ok_or_else(missing)
    }
}

impl Row {
    /// The picture's path, and the line of the metadata that names it, which is not the number of the row.
    fn name(&self) -> String {
        match self.record {
            Some(place @ RecordPlace::Line(_)) => {
                format!("{} ({place} of its metadata; rows count from 0)", self.image.display())
            }
            _ => self.image.display().to_string(),
        }
    }

    fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.image).map_err(|error| Error::UnreadableFile { error })
    }
}

impl CaptionSource for ImageFolder {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn caption(&self, number: usize) -> Result<String> {
        let row = self.row(number)?;
        match row.caption.trim() {
            "" => Err(row_of(row.name(), number)(Error::BlankCaption)),
            _ => Ok(row.caption.clone()),
        }
    }

    fn image(&self, number: usize) -> Result<RgbImage> {
        let row = self.row(number)?;
        row.read().and_then(|bytes| self.decoder.decode(&bytes)).map_err(row_of(row.name(), number))
    }

    fn fingerprint(&self, number: usize) -> Result<u128> {
        let row = self.row(number)?;
        row.read().map(|bytes| fingerprint_of_file(&bytes)).map_err(row_of(row.name(), number))
    }

    fn left_out(&self) -> LeftOut {
        self.left_out.clone()
    }
}

/// What was looked for, and what was found instead.
fn nothing_found(files: &FolderFiles) -> String {
    let mut why = format!(
        "expected parquet files, {}, or pictures beside .{} files, outside of folders of held-out splits (such as test)",
        selection::METADATA.join(", "),
        selection::CAPTIONS.join(" or .")
    );
    if !files.left_out.is_empty() {
        let groups: Vec<String> = files.left_out.groups().map(ToString::to_string).collect();
        why += &format!("; left out are {}", groups.join("; "));
    }
    why
}

fn rows_of_text_files(files: &mut FolderFiles) -> Result<Vec<Row>> {
    let row = |(image, caption): (PathBuf, PathBuf)| {
        Ok(Row { image, caption: read_text(&caption)?.trim().to_owned(), record: None })
    };
    files.captioned()?.into_iter().map(row).collect()
}

/// The rows of a metadata file whose pictures are trained on.
fn rows_of_metadata(path: &Path, column: &str, files: &mut FolderFiles) -> Result<Vec<Row>> {
    let metadata = MetadataFile::read(path)?;
    let mut rows = Vec::new();
    for record in &metadata.records {
        let (file_name, caption) = (text(&metadata, record, "file_name")?, text(&metadata, record, column)?);
        let image = metadata.picture(record, file_name)?;
        match files.why_not(&image) {
            // Those that are there have been counted as files.
            Some(reason) if !image.exists() => files.leave_out(reason, &image),
            Some(_) => {}
            None if !image.is_file() => {
                return Err(metadata.broken(record, format!("there is no file {}", image.display())));
            }
            None => rows.push(Row { image, caption: caption.to_owned(), record: Some(record.place) }),
        }
    }
    Ok(rows)
}

/// A field of a record that holds text; empty where it is null.
fn text<'a>(metadata: &MetadataFile, record: &'a Record, name: &str) -> Result<&'a str> {
    let missing = || {
        let names: Vec<&str> = record.fields.keys().map(String::as_str).collect();
        metadata.broken(record, format!("no column `{name}`; there are: {}", names.join(", ")))
    };
    match record.fields.get(name).ok_or_else(missing)? {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        other => Err(metadata.broken(record, format!("`{name}` must be a string, got {other}"))),
    }
}
