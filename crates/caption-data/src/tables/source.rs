use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use image_pixels::RgbImage;

use super::open_file;
use super::parquet_file::ParquetFile;
use super::picture_cache::{PictureCache, Pictures, Place};
use super::place::RemoteFile;
use super::recent::Recent;
use super::row_texts::{TextPlace, row_texts};
use super::table::{Column, Group, Table, TextColumn};
use crate::shard::{self, WINDOW_BYTES, window_memory};
use crate::source::{fingerprint_of_file, row_of};
use crate::text_block::TextBlock;
use crate::texts::RowTexts;
use crate::{CaptionSource, Error, ImageDecoder, LeftOut, LeftOutReason, Result, Shard, SourceOptions};

/// Captioned pictures in parquet files, the format of the Hugging Face hub's datasets. With the feature
/// `arrow`, also in the Arrow files that `Dataset.save_to_disk` writes; their record batches are treated like
/// row groups.
///
/// The picture column holds the bytes of picture files, either directly or in the field `bytes` of a struct
/// (the hub's `Image` feature). If `bytes` is null, the struct's `path` names a file, relative to the parquet
/// file. Captions are texts, numbers, class labels (whose names `datasets` writes into the file) or lists of
/// these. [`SourceOptions`] selects the columns.
///
/// The captions of a dataset that is not [large](crate::is_large) are read and checked when it is opened; those of a
/// large one are read when they are needed. Up to 32 MiB of captions are kept.
///
/// Pictures are read in pieces of some pages, up to 8 MiB or one page of the file, when one of their rows is
/// requested. The pieces that were used last are cached, encoded as in the file: up to 1 GiB, or 124 MiB of a
/// large dataset, unless [`SourceOptions::memory`] is set.
#[derive(Debug)]
pub struct ParquetSource {
    name: String,
    files: Vec<Box<dyn Table>>,
    /// The row groups of all files, in order.
    groups: Vec<RowGroup>,
    len: usize,
    decoder: ImageDecoder,
    left_out: LeftOut,
    texts: Mutex<Recent<(usize, usize), TextBlock>>,
    pictures: PictureCache,
}

#[derive(Debug)]
struct RowGroup {
    file: usize,
    /// Its index in the file.
    index: usize,
    first_row: usize,
    size: Group,
}

/// Bytes of pictures that are kept of a dataset that is not large.
const KEPT_BYTES: usize = 1 << 30;
/// Bytes of captions that are kept.
const TEXT_BYTES: usize = 32 << 20;
/// The number of rows whose captions are read together.
const TEXT_ROWS: usize = 4096;
/// Row groups with more bytes are divided into shards of this many bytes.
const GROUP_BYTES: u64 = 128 << 20;
const SLICE_BYTES: u64 = 32 << 20;

impl ParquetSource {
    /// Opens parquet files as one dataset, in the given order.
    ///
    /// # Errors
    /// If a file is not parquet, is truncated or lacks a column (the error names the columns that it has), if a
    /// column has the wrong type, or if there is no row or no row with a caption. The captions of a
    /// [large](crate::is_large) dataset are not read.
    pub fn open(paths: &[impl AsRef<Path>], options: &SourceOptions) -> Result<Self> {
        let mut name =
            paths.first().map_or("no parquet files".to_owned(), |path| path.as_ref().display().to_string());
        if paths.len() > 1 {
            name += &format!(" and {} more", paths.len() - 1);
        }
        let open = |path: &dyn AsRef<Path>| open_file(path.as_ref(), options);
        let files = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
        Self::of_tables(name, files, options)
    }

    /// Opens parquet files that are not on a disk as one dataset, in the given order. Their footers are read
    /// now, and so are the captions of a dataset that is not [large](crate::is_large). The rest is read when it
    /// is needed.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if a part of a file cannot be read.
    pub fn open_remote(
        name: impl Into<String>,
        files: Vec<Arc<dyn RemoteFile>>,
        options: &SourceOptions,
    ) -> Result<Self> {
        let open =
            |file| -> Result<Box<dyn Table>> { Ok(Box::new(ParquetFile::open_remote(file, options)?)) };
        let files = files.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        Self::of_tables(name.into(), files, options)
    }

    fn of_tables(name: String, files: Vec<Box<dyn Table>>, options: &SourceOptions) -> Result<Self> {
        let (mut groups, mut len) = (Vec::new(), 0);
        for (file, table) in files.iter().enumerate() {
            for (index, size) in table.groups().into_iter().enumerate() {
                groups.push(RowGroup { file, index, first_row: len, size });
                len += size.rows;
            }
        }
        if len == 0 {
            return Err(Error::NoRows { dataset: name, why: "the file has no rows".to_owned() });
        }
        let is_large = shard::of_size(len, &shards_of(&groups));
        let memory =
            options.memory.unwrap_or(if is_large { window_memory(WINDOW_BYTES) } else { KEPT_BYTES });
        let mut this = Self {
            name,
            files,
            groups,
            len,
            decoder: options.decoder.clone(),
            left_out: LeftOut::default(),
            texts: Mutex::new(Recent::new(TEXT_BYTES)),
            pictures: PictureCache::new(memory),
        };
        if !is_large {
            this.check_texts()?;
        }
        Ok(this)
    }

    /// Reads all captions and prompts, and reports those that are blank.
    fn check_texts(&mut self) -> Result<()> {
        let (mut left_out, mut has_caption) = (LeftOut::default(), false);
        for group in 0..self.groups.len() {
            for first in (0..self.groups[group].size.rows).step_by(self.text_rows(group)) {
                let first_row = self.groups[group].first_row + first;
                let (block, blank) = self.read_texts(group, first)?;
                for (at, blank) in blank.into_iter().enumerate() {
                    has_caption |= blank.is_some();
                    (0..blank.unwrap_or_default()).for_each(|_| {
                        left_out.add(LeftOutReason::BlankCaption, format!("row {}", first_row + at));
                    });
                }
                let bytes = block.bytes();
                lock(&self.texts).add((group, first), block, bytes);
            }
        }
        let caption = self.files.first().and_then(|file| file.caption());
        if let Some(column) = caption.filter(|_| !has_caption) {
            let column = column.name.clone();
            return Err(Error::NoCaptions { dataset: self.name.clone(), column, rows: self.len });
        }
        self.left_out.extend(left_out);
        Ok(())
    }

    /// The same source, with a report of the files beside its own that are not used.
    #[must_use]
    pub fn with_left_out(mut self, left_out: LeftOut) -> Self {
        self.left_out.extend(left_out);
        self
    }

    /// The row group of a row, and the row's number in it.
    fn place(&self, row: usize) -> Result<(usize, usize)> {
        if row >= self.len {
            return Err(Error::RowOutOfRange { dataset: self.name(), row, len: self.len });
        }
        let group = self.groups.partition_point(|group| group.first_row <= row) - 1;
        Ok((group, row - self.groups[group].first_row))
    }

    /// The number of rows of a group whose texts are read together. Lists of captions can be read only from the
    /// beginning of a group.
    fn text_rows(&self, group: usize) -> usize {
        let file = &self.files[self.groups[group].file];
        let is_flat = |column: Option<&TextColumn>| column.is_none_or(|column| column.leaf.is_some());
        let in_parts = is_flat(file.caption()) && is_flat(file.prompt());
        if in_parts { TEXT_ROWS } else { self.groups[group].size.rows.max(1) }
    }

    /// Reads the texts of the rows of a group from row `first` of it. Also returns the number of blank captions
    /// beside others of each row, or `None` for a row without a caption.
    fn read_texts(&self, group: usize, first: usize) -> Result<(TextBlock, Vec<Option<usize>>)> {
        let RowGroup { file, index, first_row, size } = self.groups[group];
        let rows = first..size.rows.min(first + self.text_rows(group));
        let file = self.files[file].as_ref();
        let place = TextPlace { dataset: &self.name, first_row: first_row + first, group: index, rows };
        row_texts(&place, file, file.reader()?.as_ref())
    }

    fn row_texts(&self, row: usize) -> Result<RowTexts> {
        let (group, at) = self.place(row)?;
        let first = at - at % self.text_rows(group);
        let mut texts = lock(&self.texts);
        let block = match texts.get(&(group, first)) {
            Some(block) => block,
            None => {
                let (block, _) = self.read_texts(group, first)?;
                let bytes = block.bytes();
                texts.add((group, first), block, bytes)
            }
        };
        let missing = || Error::RowOutOfRange { dataset: self.name(), row, len: self.len };
        block.get(at - first).ok_or_else(missing)
    }

    /// Calls `read` with the bytes of a row's picture file.
    fn with_file<T>(&self, row: usize, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let (number, at) = self.place(row)?;
        let group = &self.groups[number];
        let RowGroup { file, index, size, .. } = *group;
        let place = Place { number, file: self.files[file].as_ref(), index, rows: size.rows };
        let (pictures, first) = self.pictures.get(&place, at)?;
        let file = self.file(group, &pictures, at - first);
        file.and_then(|bytes| read(&bytes)).map_err(row_of(&self.name, row))
    }

    fn file<'a>(&self, group: &RowGroup, pictures: &'a Pictures, at: usize) -> Result<Cow<'a, [u8]>> {
        if let Some(bytes) = pictures.bytes.get(at) {
            return Ok(Cow::Borrowed(bytes));
        }
        let path = pictures.paths.as_ref().and_then(|paths| paths.get(at)).ok_or(Error::NoPicture)?;
        let parquet = self.files[group.file].path();
        let path: PathBuf = parquet.with_file_name(String::from_utf8_lossy(path).as_ref());
        std::fs::read(&path).map(Cow::Owned).map_err(|source| Error::NoPictureFile { path, source })
    }
}

impl CaptionSource for ParquetSource {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn caption(&self, row: usize) -> Result<String> {
        let texts = self.row_texts(row)?;
        texts.captions().map(|captions| captions[0].clone()).map_err(row_of(&self.name, row))
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        let texts = self.row_texts(row)?;
        texts.captions().map(<[String]>::to_vec).map_err(row_of(&self.name, row))
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        let texts = self.row_texts(row)?;
        texts.prompt().map(|prompt| prompt.map(str::to_owned)).map_err(row_of(&self.name, row))
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        self.with_file(row, |bytes| Ok(self.decoder.decode(bytes)?))
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

    /// The row groups. One of more than 128 MiB is divided.
    fn shards(&self) -> Vec<Shard> {
        shards_of(&self.groups)
    }

    fn content(&self) -> Option<u128> {
        let contents: Vec<u8> = self.files.iter().flat_map(|file| file.content().to_le_bytes()).collect();
        Some(fingerprint_of_file(&contents))
    }
}

fn shards_of(groups: &[RowGroup]) -> Vec<Shard> {
    groups.iter().flat_map(|group| slices(group.size)).collect()
}

/// The largest number of shards of a row group. A damaged file can contain any number of rows in its footer,
/// for which no memory should be allocated.
const MAX_SLICES: usize = 1 << 12;

/// Divides a row group into shards.
fn slices(Group { rows, bytes }: Group) -> impl Iterator<Item = Shard> {
    // Including the memory for the positions of the pictures.
    let bytes = bytes + (rows * Column::ROW_BYTES) as u64;
    let count = if bytes > GROUP_BYTES { bytes.div_ceil(SLICE_BYTES) as usize } else { 1 };
    let count = count.clamp(1, rows.clamp(1, MAX_SLICES));
    let start = move |slice: usize| slice * rows / count;
    (0..count).map(move |slice| Shard { rows: start(slice + 1) - start(slice), bytes: bytes / count as u64 })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
