use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use image::RgbImage;

use super::open_file;
use super::table::{Column, Table, TableReader, TextColumn};
use crate::source::{fingerprint_of_file, row_of};
use crate::texts::{self, RowTexts, TEXTS};
use crate::{CaptionSource, Error, ImageDecoder, LeftOut, LeftOutReason, Result, SourceOptions};

/// Captioned pictures in parquet files, the format of the Hugging Face hub's datasets. With the feature
/// `arrow`, also in the Arrow files that `Dataset.save_to_disk` writes; their record batches are treated like
/// row groups.
///
/// The picture column holds the bytes of picture files, either directly or in the field `bytes` of a struct
/// (the hub's `Image` feature). If `bytes` is null, the struct's `path` names a file, relative to the parquet
/// file. Captions are texts, numbers, class labels (whose names `datasets` writes into the file) or lists of
/// these. [`SourceOptions`] says which columns are read.
///
/// Captions are read when the dataset is opened. Pictures are read one row group at a time, when one of its
/// rows is requested. They are cached as in the file, not decoded. Beyond 1 GiB, the least recently used row
/// groups are dropped, but the row group being read is always held whole: a file with larger row groups needs
/// memory for its largest one.
#[derive(Debug)]
pub struct ParquetSource {
    name: String,
    files: Vec<Box<dyn Table>>,
    /// The row groups of all files, in order.
    groups: Vec<RowGroup>,
    /// One per row.
    texts: Vec<RowTexts>,
    decoder: ImageDecoder,
    left_out: LeftOut,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct RowGroup {
    file: usize,
    /// Its index in the file.
    index: usize,
    first_row: usize,
}

/// Encoded pictures of the row groups that were used last, the newest at the end.
#[derive(Debug, Default)]
struct Cache {
    groups: Vec<(usize, Arc<Pictures>)>,
}

#[derive(Debug)]
struct Pictures {
    bytes: Column,
    paths: Option<Column>,
}

/// The size limit of the cache in bytes, not counting the row group that is being read.
const KEPT_BYTES: usize = 1 << 30;

impl ParquetSource {
    /// Opens parquet files as one dataset, in the given order.
    ///
    /// # Errors
    /// If a file is not parquet, is truncated or lacks a column (the error names the columns that it has), if
    /// a column has the wrong type, or if there is no row or no row with a caption.
    pub fn open(paths: &[impl AsRef<Path>], options: &SourceOptions) -> Result<Self> {
        let mut name =
            paths.first().map_or("no parquet files".to_owned(), |path| path.as_ref().display().to_string());
        if paths.len() > 1 {
            name += &format!(" and {} more", paths.len() - 1);
        }
        let open = |path: &dyn AsRef<Path>| open_file(path.as_ref(), options);
        let files = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
        let (mut groups, mut texts) = (Vec::new(), Vec::new());
        for (file_number, file) in files.iter().enumerate() {
            let reader = file.reader()?;
            for index in 0..file.groups() {
                let first_row = texts.len();
                groups.push(RowGroup { file: file_number, index, first_row });
                texts.extend(row_texts(&name, first_row, file.as_ref(), reader.as_ref(), index)?);
            }
        }
        if texts.is_empty() {
            return Err(Error::NoRows { dataset: name, why: "the file has no rows".to_owned() });
        }
        let caption = files.first().and_then(|file| file.caption());
        if let Some(column) = caption.filter(|_| texts.iter().all(|texts| texts.captions.is_empty())) {
            let column = column.name.clone();
            return Err(Error::NoCaptions { dataset: name, column, rows: texts.len() });
        }
        let mut left_out = LeftOut::default();
        for (row, texts) in texts.iter().enumerate() {
            (0..texts.left_out())
                .for_each(|_| left_out.add(LeftOutReason::BlankCaption, format!("row {row}")));
        }
        let (decoder, cache) = (options.decoder.clone(), Mutex::default());
        Ok(Self { name, files, groups, texts, decoder, left_out, cache })
    }

    /// The same source, with a report of the files beside its own that are not used.
    #[must_use]
    pub fn with_left_out(mut self, left_out: LeftOut) -> Self {
        self.left_out.extend(left_out);
        self
    }

    fn check(&self, row: usize) -> Result<()> {
        let len = self.texts.len();
        if row < len { Ok(()) } else { Err(Error::RowOutOfRange { dataset: self.name(), row, len }) }
    }

    /// The pictures of a row group, from the cache or from the file.
    fn pictures(&self, group: usize) -> Result<Arc<Pictures>> {
        // Held while reading: another thread that waits most likely wants the same row group.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.groups.iter().position(|(number, _)| *number == group);
        let pictures = match found {
            Some(at) => cache.groups.remove(at).1,
            None => {
                let RowGroup { file, index, .. } = self.groups[group];
                let file = &self.files[file];
                let reader = file.reader()?;
                let (bytes, paths) = reader.pictures(index)?;
                Arc::new(Pictures { bytes, paths })
            }
        };
        cache.groups.push((group, Arc::clone(&pictures)));
        let mut bytes: usize = cache.groups.iter().map(|(_, pictures)| pictures.bytes.total_bytes()).sum();
        while bytes > KEPT_BYTES && cache.groups.len() > 1 {
            bytes -= cache.groups.remove(0).1.bytes.total_bytes();
        }
        Ok(pictures)
    }

    /// Calls `read` with the bytes of a row's picture file.
    fn with_file<T>(&self, row: usize, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        self.check(row)?;
        let number = self.groups.partition_point(|group| group.first_row <= row) - 1;
        let group = &self.groups[number];
        let pictures = self.pictures(number)?;
        let file = self.file(group, &pictures, row - group.first_row);
        file.and_then(|bytes| read(&bytes)).map_err(row_of(&self.name, row))
    }

    fn file<'a>(&self, group: &RowGroup, pictures: &'a Pictures, at: usize) -> Result<Cow<'a, [u8]>> {
        if let Some(bytes) = pictures.bytes.get(at) {
            return Ok(Cow::Borrowed(bytes));
        }
        let path = pictures.paths.as_ref().and_then(|paths| paths.get(at)).ok_or(Error::NoPicture)?;
        let parquet = self.files[group.file].path();
        let path: PathBuf = parquet.with_file_name(String::from_utf8_lossy(path).as_ref());
        std::fs::read(&path).map(Cow::Owned).map_err(|error| Error::NoPictureFile { path, error })
    }
}

impl CaptionSource for ParquetSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        self.check(row)?;
        self.texts[row].captions().map(|captions| captions[0].clone()).map_err(row_of(&self.name, row))
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        self.check(row)?;
        self.texts[row].captions().map(<[String]>::to_vec).map_err(row_of(&self.name, row))
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        self.check(row)?;
        let prompt = self.texts[row].prompt().map_err(row_of(&self.name, row))?;
        Ok(prompt.map(str::to_owned))
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        self.with_file(row, |bytes| self.decoder.decode(bytes))
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        self.with_file(row, |bytes| Ok(fingerprint_of_file(bytes)))
    }

    fn class_names(&self) -> Option<Vec<String>> {
        self.files.first()?.caption()?.labels.clone()
    }

    fn left_out(&self) -> LeftOut {
        self.left_out.clone()
    }
}

/// The texts of all rows of a row group; its first row is row `first_row` of the dataset.
fn row_texts(
    dataset: &str,
    first_row: usize,
    file: &dyn Table,
    reader: &dyn TableReader,
    group: usize,
) -> Result<Vec<RowTexts>> {
    let checked = |column: &TextColumn| {
        let values = reader.values(group, column)?.into_iter().enumerate();
        let bad_text = |at| row_of(dataset, first_row + at)(Error::CaptionEncoding);
        values.map(|(at, value)| value.ok_or_else(|| bad_text(at))).collect::<Result<Vec<_>>>()
    };
    let refused = |column: &TextColumn, at: usize, found: String| Error::ColumnType {
        path: file.path().to_owned(),
        column: column.name.clone(),
        expected: TEXTS,
        found: format!("{found} in row {} (rows count from 0)", first_row + at),
    };
    let column = |column: Option<&TextColumn>| column.map(checked).transpose();
    let (captions, prompts) = (column(file.caption())?, column(file.prompt())?);
    let rows = reader.rows(group)?;
    let row = |at: usize| {
        let (captions, blank) = match (file.caption(), &captions) {
            (Some(column), Some(values)) => texts::texts(&values[at], column.labels.as_deref())
                .map_err(|found| refused(column, at, found))?,
            _ => (Vec::new(), 0),
        };
        let prompt = match (file.prompt(), &prompts) {
            (Some(column), Some(values)) => Some(
                texts::prompt(&values[at], column.labels.as_deref())
                    .map_err(|found| refused(column, at, found))?,
            ),
            _ => None,
        };
        Ok(RowTexts { captions, blank, prompt })
    };
    (0..rows).map(row).collect()
}
