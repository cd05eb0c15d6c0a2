use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;
use twox_hash::XxHash3_128;

use crate::columns::Columns;
use crate::folder_files::FolderFiles;
use crate::metadata::{MetadataFile, Record};
use crate::source::{fingerprint_of_file, row_of};
use crate::text_encoding::read_text;
use crate::texts::{self, RowTexts, TEXTS, Texts};
use crate::walk::Files;
use crate::{
    CaptionSource, Error, ImageDecoder, LeftOut, LeftOutReason, RecordPlace, Result, SourceOptions, selection,
};

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
/// ([`selection`]). For example, `test/0001.png` in this folder is left out, but not if the folder `test`
/// itself is opened. [`left_out`](CaptionSource::left_out) lists them.
#[derive(Debug)]
pub struct ImageFolder {
    name: String,
    rows: Vec<Row>,
    left_out: LeftOut,
    decoder: ImageDecoder,
}

#[derive(Debug)]
struct Row {
    image: Box<Path>,
    texts: Texts,
    /// The metadata record that names the picture; `None` if the caption has a file of its own.
    record: Option<RecordPlace>,
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

impl Row {
    /// Rows with the same key are one row with several captions.
    fn key(&self) -> (&Path, Option<&str>) {
        (&self.image, self.texts.prompt())
    }

    /// The picture's path, and the metadata line that names it, which is not the number of the row.
    fn name(&self) -> String {
        match self.record {
            Some(place @ RecordPlace::Line(_)) => {
                format!("{} ({place} of its metadata; rows count from 0)", self.image.display())
            }
            _ => self.image.display().to_string(),
        }
    }

    fn captions(&self) -> Result<Vec<String>> {
        if !self.texts.is_empty() {
            return Ok(self.texts.unpacked().captions);
        }
        let texts = selection::CAPTIONS.map(|extension| self.image.with_extension(extension));
        if self.record.is_none() && !texts.iter().any(|text| text.exists()) {
            return Err(Error::NoCaptionFile { caption: self.image.with_extension(selection::CAPTIONS[0]) });
        }
        Err(Error::BlankCaption)
    }

    fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.image).map_err(|source| Error::UnreadableFile { source })
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
        row.read().and_then(|bytes| self.decoder.decode(&bytes)).map_err(row_of(row.name(), number))
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

fn rows_of_text_files(files: &mut FolderFiles) -> Result<Vec<Row>> {
    files.captioned().into_iter().map(|(image, text)| row_of_text_file(image, text.as_deref())).collect()
}

/// A picture with the captions in its text file, one per line; without captions if it has no such file.
fn row_of_text_file(image: PathBuf, text: Option<&Path>) -> Result<Row> {
    let text = text.map(read_text).transpose()?.unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let texts = RowTexts { captions: lines.map(str::to_owned).collect(), blank: 0, prompt: None };
    Ok(Row { image: image.into(), texts: texts.into(), record: None })
}

/// The rows of text files in folders that no metadata file describes. Other pictures that are not in `rows`,
/// the rows of the metadata, are left out. With prompts, which only metadata have, all pictures without
/// metadata are left out.
fn rows_beside_metadata(rows: &[Row], options: &SourceOptions, files: &mut FolderFiles) -> Result<Vec<Row>> {
    let mut named: Vec<&Path> = rows.iter().map(|row| &*row.image).collect();
    named.sort_unstable();
    let is_unnamed = |path: &&PathBuf| named.binary_search(&path.as_path()).is_err();
    let unnamed: Vec<PathBuf> = files.pictures.iter().filter(is_unnamed).cloned().collect();
    let captions = files.caption_files();
    let mut beside = Vec::new();
    for picture in unnamed {
        match captions.get(&picture.with_extension("")).map(Vec::as_slice) {
            Some([text, others @ ..]) if options.prompt_column.is_none() && !files.is_described(&picture) => {
                others.iter().for_each(|other| files.leave_out(LeftOutReason::OtherCaptionFile, other));
                beside.push(row_of_text_file(picture, Some(text.as_path()))?);
            }
            Some(_) => files.leave_out(LeftOutReason::UnreadCaptionFile, &picture),
            None => files.leave_out(LeftOutReason::NoCaption, &picture),
        }
    }
    Ok(beside)
}

/// The training rows of a metadata file, one for each record, and the column of their captions.
fn rows_of_metadata(
    path: &Path,
    options: &SourceOptions,
    files: &mut FolderFiles,
) -> Result<(Vec<Row>, String)> {
    let metadata = MetadataFile { path };
    let (mut names, mut count) = (Vec::new(), 0);
    metadata.for_each(&mut |record| {
        count += 1;
        for name in record.fields.keys() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        Ok(())
    })?;
    let mut rows = Vec::with_capacity(count);
    if count == 0 {
        return Ok((rows, String::new()));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let columns = Columns::of_metadata(path, &names, options)?;
    metadata.for_each(&mut |record| {
        let image = metadata.picture(&record, file_name(&metadata, &record, &columns.image)?)?;
        match files.why_not(&image) {
            // Existing files are counted already.
            Some(reason) if !image.exists() => files.leave_out(reason, &image),
            Some(_) => {}
            // A broken link, which has been counted.
            None if image.is_symlink() && !image.exists() => {}
            None => {
                let texts = row_texts(&metadata, &record, &columns)?.into();
                rows.push(Row { image: image.into(), texts, record: Some(record.place) });
            }
        }
        Ok(())
    })?;
    Ok((rows, columns.caption.unwrap_or_default()))
}

/// Merges the rows with the same picture and prompt into the first of them, with the captions of all.
fn with_references(mut rows: Vec<Row>) -> Vec<Row> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| rows[*a].key().cmp(&rows[*b].key()));
    let groups = order.chunk_by(|a, b| rows[*a].key() == rows[*b].key());
    let merged: Vec<Vec<usize>> = groups.filter(|group| group.len() > 1).map(<[usize]>::to_vec).collect();
    let mut is_merged = vec![false; rows.len()];
    // The order of equal rows is that of the records.
    for group in merged {
        let mut texts = rows[group[0]].texts.unpacked();
        for row in &group[1..] {
            let more = rows[*row].texts.unpacked();
            texts.captions.extend(more.captions);
            texts.blank += more.blank;
            is_merged[*row] = true;
        }
        rows[group[0]].texts = texts.into();
    }
    let mut is_merged = is_merged.into_iter();
    rows.retain(|_| !is_merged.next().unwrap_or_default());
    rows
}

/// The name of a record's picture file.
fn file_name<'a>(metadata: &MetadataFile<'_>, record: &'a Record, column: &str) -> Result<&'a str> {
    match record.fields.get(column) {
        Some(Value::String(name)) => Ok(name),
        None | Some(Value::Null) => {
            let names: Vec<&str> = record.fields.keys().map(String::as_str).collect();
            Err(metadata.broken(record, format!("no `{column}`; there are: {}", names.join(", "))))
        }
        Some(other) => Err(metadata.broken(record, format!("`{column}` must be a string, got {other}"))),
    }
}

/// The captions and the prompt of a record. A missing field counts as blank, since other records have it.
fn row_texts(metadata: &MetadataFile<'_>, record: &Record, columns: &Columns) -> Result<RowTexts> {
    let value = |column: &str| record.fields.get(column).unwrap_or(&Value::Null);
    let refused = |column: &str, found: String| {
        metadata.broken(record, format!("`{column}` must hold {TEXTS}, it holds {found}"))
    };
    let captions = columns
        .caption
        .as_deref()
        .map(|column| texts::texts(value(column), None).map_err(|found| refused(column, found)));
    let (captions, blank) = captions.transpose()?.unwrap_or_default();
    let prompt = columns
        .prompt
        .as_deref()
        .map(|column| texts::prompt(value(column), None).map_err(|found| refused(column, found)));
    Ok(RowTexts { captions, blank, prompt: prompt.transpose()? })
}
