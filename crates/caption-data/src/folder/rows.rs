//! The rows of an image folder: pictures with the captions of text files or of metadata.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::columns::Columns;
use crate::folder_files::FolderFiles;
use crate::metadata::{MetadataFile, Record};
use crate::text_encoding::read_text;
use crate::texts::{self, RowTexts, TEXTS, Texts};
use crate::{Error, LeftOutReason, RecordPlace, Result, SourceOptions, selection};

#[derive(Debug)]
pub(super) struct Row {
    pub(super) image: Box<Path>,
    pub(super) texts: Texts,
    /// The metadata record that names the picture; `None` if the caption has a file of its own.
    pub(super) record: Option<RecordPlace>,
}

impl Row {
    /// Rows with the same key are one row with several captions.
    fn key(&self) -> (&Path, Option<&str>) {
        (&self.image, self.texts.prompt())
    }

    /// The picture's path, and the metadata line that names it, which is not the number of the row.
    pub(super) fn name(&self) -> String {
        match self.record {
            Some(place @ RecordPlace::Line(_)) => {
                format!("{} ({place} of its metadata; rows count from 0)", self.image.display())
            }
            _ => self.image.display().to_string(),
        }
    }

    pub(super) fn captions(&self) -> Result<Vec<String>> {
        if !self.texts.is_empty() {
            return Ok(self.texts.unpacked().captions);
        }
        let texts = selection::CAPTIONS.map(|extension| self.image.with_extension(extension));
        if self.record.is_none() && !texts.iter().any(|text| text.exists()) {
            return Err(Error::NoCaptionFile { caption: self.image.with_extension(selection::CAPTIONS[0]) });
        }
        Err(Error::BlankCaption)
    }

    pub(super) fn read(&self) -> Result<Vec<u8>> {
        fs::read(&self.image).map_err(|source| Error::UnreadableFile { source })
    }
}

/// The rows of a folder without metadata.
pub(super) fn rows_of_text_files(files: &mut FolderFiles) -> Result<Vec<Row>> {
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
pub(super) fn rows_beside_metadata(
    rows: &[Row],
    options: &SourceOptions,
    files: &mut FolderFiles,
) -> Result<Vec<Row>> {
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
pub(super) fn rows_of_metadata(
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
pub(super) fn with_references(mut rows: Vec<Row>) -> Vec<Row> {
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
