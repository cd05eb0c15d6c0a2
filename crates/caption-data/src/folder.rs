mod rows;

use std::fs;
use std::path::{Path, PathBuf};

use image_pixels::RgbImage;
use rows::{Row, rows_beside_metadata, rows_of_metadata, rows_of_text_files, with_references};
use twox_hash::XxHash3_128;

use crate::folder_files::FolderFiles;
use crate::source::{fingerprint_of_file, row_of};
use crate::texts::{RowTexts, Texts};
use crate::walk::Files;
use crate::{CaptionSource, Error, ImageDecoder, LeftOut, LeftOutReason, Result, SourceOptions};

/// A folder of picture files with captions, in one of the layouts of Hugging Face's `imagefolder`:
///
/// - `metadata.jsonl`, one object per line: `{"file_name": "0001.png", "text": "a red bird"}`;
/// - `metadata.csv` or `metadata.parquet` with the columns `file_name` and `text`;
/// - `metadata.json`, one array of such objects;
/// - without metadata, pictures with a caption in a text file of the same name: `0001.png` and `0001.txt` or
///   `0001.caption`.
///
/// A picture can have several captions: a list in the metadata, several records with its name (and with the
/// same prompt, if there are prompts), or several lines of its text file. All of them are in one row. If the
/// columns of metadata have other names than above, set them in [`SourceOptions`].
///
/// `file_name` lies inside the folder of the metadata file, and is relative to it or absolute. Folders may be nested, each
/// with its own metadata; a folder without metadata in it or above it may have text files instead. Text is
/// UTF-8, or UTF-16 with a byte-order mark. Rows are in the order of the metadata, or of the paths; those of
/// text files come last.
///
/// These files are left out: pictures that the metadata do not name, pictures in unsupported formats, text
/// files without a picture of the same name, broken links, and all files that are not in the training split
/// ([`selection`](crate::selection)). For example, `test/0001.png` in this folder is left out, but not if the folder `test`
/// itself is opened. [`left_out`](CaptionSource::left_out) lists them.
#[derive(Debug)]
pub struct ImageFolder {
    name: String,
    rows: Vec<Row>,
    left_out: LeftOut,
    decoder: ImageDecoder,
}

impl ImageFolder {
    /// Reads the captions of a folder and finds its pictures. The path of a metadata file opens its folder,
    /// with that file as the only metadata.
    ///
    /// # Errors
    /// If metadata are broken (the error names the line), if it is not clear which of their columns to read, or if
    /// there is no row or no row with a caption. A picture that is missing, or that has no caption, is an error of
    /// its row.
    pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Self> {
        let path = path.as_ref();
        let files = if path.is_file() { FolderFiles::of_metadata(path)? } else { FolderFiles::find(path)? };
        Self::with_files(path, files, options)
    }

    /// As [`open`](Self::open), for a folder whose files are found already.
    pub(crate) fn of_files(folder: &Path, files: Files, options: &SourceOptions) -> Result<Self> {
        Self::with_files(folder, FolderFiles::choose(folder, files), options)
    }

    fn with_files(path: &Path, mut files: FolderFiles, options: &SourceOptions) -> Result<Self> {
        if let Some((role, column)) = options.named_columns().next().filter(|_| files.metadata.is_empty()) {
            return Err(Error::NoTable { path: path.to_owned(), role, column: column.to_owned() });
        }
        let (mut rows, mut column) = (Vec::new(), String::new());
        if files.metadata.is_empty() && options.no_captions {
            let row = |image: &PathBuf| Row {
                image: image.as_path().into(),
                texts: Texts::from(RowTexts { captions: Vec::new(), blank: 0, prompt: None }),
                record: None,
            };
            rows = files.pictures.iter().map(row).collect();
        } else if files.metadata.is_empty() {
            rows = rows_of_text_files(&mut files)?;
        } else {
            for path in files.metadata.clone() {
                let (of_file, chosen) = rows_of_metadata(&path, options, &mut files)?;
                rows.extend(of_file);
                column = chosen;
            }
            rows = with_references(rows);
            for row in &rows {
                (0..row.texts.left_out())
                    .for_each(|_| files.leave_out(LeftOutReason::BlankCaption, &row.image));
            }
            let beside = rows_beside_metadata(&rows, options, &mut files)?;
            rows.extend(beside);
        }
        let name = path.display().to_string();
        if rows.is_empty() {
            return Err(Error::NoRows { dataset: name, why: files.nothing_found() });
        }
        if !options.no_captions && rows.iter().all(|row| row.texts.is_empty()) {
            return Err(Error::NoCaptions { dataset: name, column, rows: rows.len() });
        }
        Ok(Self { name, rows, left_out: files.left_out, decoder: options.decoder.clone() })
    }

    fn row(&self, row: usize) -> Result<&Row> {
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.rows.len() };
        self.rows.get(row).ok_or_else(missing)
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
        row.captions().map(|mut captions| captions.swap_remove(0)).map_err(row_of(row.name(), number))
    }

    fn captions(&self, number: usize) -> Result<Vec<String>> {
        let row = self.row(number)?;
        row.captions().map_err(row_of(row.name(), number))
    }

    fn prompt(&self, number: usize) -> Result<Option<String>> {
        let row = self.row(number)?;
        let texts = row.texts.unpacked();
        texts.prompt().map(|prompt| prompt.map(str::to_owned)).map_err(row_of(row.name(), number))
    }

    fn image(&self, number: usize) -> Result<RgbImage> {
        let row = self.row(number)?;
        row.read().and_then(|bytes| Ok(self.decoder.decode(&bytes)?)).map_err(row_of(row.name(), number))
    }

    fn fingerprint(&self, number: usize) -> Result<u128> {
        let row = self.row(number)?;
        row.read().map(|bytes| fingerprint_of_file(&bytes)).map_err(row_of(row.name(), number))
    }

    fn left_out(&self) -> LeftOut {
        self.left_out.clone()
    }

    /// Checksum of the names and sizes of the pictures and of all texts.
    fn content(&self) -> Option<u128> {
        let mut hasher = XxHash3_128::new();
        for Row { image, texts, .. } in &self.rows {
            let (size, texts) =
                (fs::metadata(image).map(|metadata| metadata.len()).unwrap_or_default(), texts.unpacked());
            hasher.write(format!("{:?} {size} {texts:?}", image.file_name()).as_bytes());
        }
        Some(hasher.finish_128())
    }
}
