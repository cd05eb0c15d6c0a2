//! WebDataset: captioned pictures in tar files.

mod index;
mod pattern;

use std::path::{Path, PathBuf};

use image_pixels::RgbImage;
use serde_json::Value;
use twox_hash::XxHash3_128;

use self::index::{Extent, Index};
pub use self::pattern::is_pattern;
pub(crate) use self::pattern::{expand, names_files};
use crate::columns::Columns;
use crate::source::{fingerprint_of_file, row_of};
use crate::texts::{self, RowTexts, TEXTS};
use crate::{CaptionSource, Error, ImageDecoder, Result, Shard, SourceOptions};

/// Captioned pictures in tar files, in the layout of WebDataset: the files of a sample follow each other and have the
/// same name up to its first dot, `0001.jpg` and `0001.txt`.
///
/// A sample has one picture. Its captions are the lines of its `.txt` (or `.caption`), or a field of its
/// `.json`, or the number in its `.cls`. [`SourceOptions::caption_column`] selects one of these: `txt`, `cls`
/// or a field. The default is the first of them that the first sample has; among fields it is the one with a
/// usual name. A prompt is a field of the `.json`. Files with other endings are not used.
///
/// When a tar file is opened for the first time, its headers are read in one pass, and the positions of the
/// samples are written to `0000.tar.index.json` beside it, or to [`SourceOptions::index_cache`] if that is not
/// possible. Pictures and captions are read when they are needed.
#[derive(Debug)]
pub struct WebDataset {
    name: String,
    shards: Vec<TarFile>,
    len: usize,
    columns: Captions,
    prompt: Option<String>,
    decoder: ImageDecoder,
}

#[derive(Debug)]
struct TarFile {
    path: PathBuf,
    first_row: usize,
    index: Index,
}

/// The source of the captions.
#[derive(Debug, PartialEq)]
enum Captions {
    None,
    Lines,
    Class,
    Field(String),
}

impl WebDataset {
    /// Opens tar files as one dataset, in the given order.
    ///
    /// # Errors
    /// If a file is not a tar file or is truncated; if a sample has no picture or two, or if its files are not
    /// together (the error names the file and the sample); if there is no sample; or if it is not clear which
    /// entries are the captions.
    pub fn open(paths: &[impl AsRef<Path>], options: &SourceOptions) -> Result<Self> {
        let mut name =
            paths.first().map_or("no tar files".to_owned(), |path| path.as_ref().display().to_string());
        if paths.len() > 1 {
            name += &format!(" and {} more", paths.len() - 1);
        }
        let (mut shards, mut len) = (Vec::new(), 0);
        for path in paths.iter().map(AsRef::as_ref) {
            let index = Index::of(path, options.index_cache.as_deref())?;
            let rows = index.samples.len();
            shards.push(TarFile { path: path.to_owned(), first_row: len, index });
            len += rows;
        }
        let Some(first) = shards.iter().find(|shard| !shard.index.samples.is_empty()) else {
            return Err(Error::NoRows {
                dataset: name,
                why: "there is no sample in the tar files".to_owned(),
            });
        };
        let (columns, prompt) = first.columns(options)?;
        Ok(Self { name, columns, prompt, shards, len, decoder: options.decoder.clone() })
    }

    /// The tar file of a row, and the row's number in it.
    fn place(&self, row: usize) -> Result<(&TarFile, usize)> {
        if row >= self.len {
            return Err(Error::RowOutOfRange { dataset: self.name(), row, len: self.len });
        }
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first_row <= row) - 1];
        Ok((shard, row - shard.first_row))
    }

    fn texts(&self, row: usize) -> Result<RowTexts> {
        let (shard, at) = self.place(row)?;
        let sample = &shard.index.samples[at];
        let read = || {
            let json = || shard.json(sample.json);
            let captions = match &self.columns {
                Captions::None => Vec::new(),
                Captions::Lines => {
                    let text = shard.text(sample.text)?;
                    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                    lines.map(str::to_owned).collect()
                }
                Captions::Class => vec![shard.text(sample.cls)?.trim().to_owned()],
                Captions::Field(name) => {
                    let refused = |found| shard.refused(name, &sample.key, found);
                    texts::texts(&json()?[name.as_str()], None).map_err(refused)?.0
                }
            };
            let prompt = self.prompt.as_ref().map(|name| {
                texts::prompt(&json()?[name.as_str()], None)
                    .map_err(|found| shard.refused(name, &sample.key, found))
            });
            let captions = captions.into_iter().filter(|caption: &String| !caption.is_empty()).collect();
            Ok::<_, Error>(RowTexts { captions, blank: 0, prompt: prompt.transpose()? })
        };
        read().map_err(row_of(shard.sample(at), row))
    }

    fn picture(&self, row: usize) -> Result<(Vec<u8>, String)> {
        let (shard, at) = self.place(row)?;
        let picture = shard.index.samples[at].picture.read(&shard.path);
        let picture = picture.map_err(|source| Error::UnreadableFile { source });
        let name = shard.sample(at);
        Ok((picture.map_err(row_of(&name, row))?, name))
    }
}

impl TarFile {
    /// The source of captions and prompts, by the first sample.
    fn columns(&self, options: &SourceOptions) -> Result<(Captions, Option<String>)> {
        let sample = &self.index.samples[0];
        let json = self.json(sample.json)?;
        let mut names: Vec<&str> =
            json.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let files = [("txt", sample.text), ("cls", sample.cls)];
        let files: Vec<&str> = files.into_iter().filter_map(|(name, file)| file.map(|_| name)).collect();
        let wanted = options.caption_column.as_deref().or(options.label_column.as_deref());
        let of_files = match wanted {
            Some(name) => files.iter().find(|file| **file == name),
            None if sample.text.is_some() || json.is_null() => files.first(),
            None => None,
        };
        let kind = |name: &str| if name == "txt" { Captions::Lines } else { Captions::Class };
        let columns = match of_files {
            _ if options.no_captions => Captions::None,
            Some(name) => kind(name),
            None => {
                names.extend(&files);
                let columns = Columns::of_texts(&self.path, &names, options)?;
                Captions::Field(columns.caption.unwrap_or_default())
            }
        };
        let prompt = match &options.prompt_column {
            Some(_) => {
                let only_prompt = SourceOptions { no_captions: true, ..options.clone() };
                Columns::of_texts(&self.path, &names, &only_prompt)?.prompt
            }
            None => None,
        };
        Ok((columns, prompt))
    }

    /// The JSON of a sample; null if it has none.
    fn json(&self, file: Option<Extent>) -> Result<Value> {
        let text = self.text(file)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|source| Error::Json { path: self.path.clone(), source })
    }

    /// The text of a file; empty if it does not exist.
    fn text(&self, file: Option<Extent>) -> Result<String> {
        let Some(file) = file else { return Ok(String::new()) };
        let bytes = file.read(&self.path).map_err(|source| Error::UnreadableFile { source })?;
        String::from_utf8(bytes).map_err(|_| Error::CaptionEncoding)
    }

    fn refused(&self, column: &str, key: &str, found: String) -> Error {
        let found = format!("{found} in the sample `{key}`");
        Error::ColumnType { path: self.path.clone(), column: column.to_owned(), expected: TEXTS, found }
    }

    /// A sample in messages.
    fn sample(&self, at: usize) -> String {
        format!("{} (sample `{}`)", self.path.display(), self.index.samples[at].key)
    }
}

impl CaptionSource for WebDataset {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn caption(&self, row: usize) -> Result<String> {
        self.captions(row).map(|mut captions| captions.swap_remove(0))
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        let texts = self.texts(row)?;
        let (shard, at) = self.place(row)?;
        texts.captions().map(<[String]>::to_vec).map_err(row_of(shard.sample(at), row))
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        if self.prompt.is_none() {
            return self.place(row).map(|_| None);
        }
        let texts = self.texts(row)?;
        let (shard, at) = self.place(row)?;
        texts.prompt().map(|prompt| prompt.map(str::to_owned)).map_err(row_of(shard.sample(at), row))
    }

    fn image(&self, row: usize) -> Result<RgbImage> {
        let (picture, name) = self.picture(row)?;
        self.decoder.decode(&picture).map_err(row_of(name, row))
    }

    fn fingerprint(&self, row: usize) -> Result<u128> {
        Ok(fingerprint_of_file(&self.picture(row)?.0))
    }

    /// The tar files.
    fn shards(&self) -> Vec<Shard> {
        let shard = |shard: &TarFile| {
            let samples = &shard.index.samples;
            Shard {
                rows: samples.len(),
                bytes: samples.iter().map(|sample| u64::from(sample.picture.1)).sum(),
            }
        };
        self.shards.iter().map(shard).collect()
    }

    /// Checksum of the names, places and sizes of all files.
    fn content(&self) -> Option<u128> {
        let mut hasher = XxHash3_128::new();
        for sample in self.shards.iter().flat_map(|shard| &shard.index.samples) {
            hasher.write(format!("{sample:?}").as_bytes());
        }
        Some(hasher.finish_128())
    }
}
