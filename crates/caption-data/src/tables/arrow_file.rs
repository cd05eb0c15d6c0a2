//! Reads columns of an Arrow file, in the format in which `datasets` saves it: a stream of record batches.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{ArrowError, DataType};
use serde_json::Value;
use twox_hash::XxHash3_128;

use super::arrow_columns::{bytes_of, columns, is_picture, value};
use super::parquet_schema::{PICTURES, STRINGS, features_in, labels_in};
use super::table::{Column, Group, Table, TableReader, TextColumn};
use crate::columns::Columns;
use crate::{Error, Result, SourceOptions, lfs};

/// Where an Arrow file holds the picture and the texts of each row.
#[derive(Debug)]
pub(crate) struct ArrowFile {
    path: PathBuf,
    /// The messages that every record batch depends on: the schema and the dictionaries.
    head: Vec<u8>,
    batches: Vec<Batch>,
    content: u128,
    caption: Option<TextColumn>,
    prompt: Option<TextColumn>,
    image: String,
}

impl ArrowFile {
    pub(crate) fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        let mut file = open(path)?;
        lfs::check_start(path, &file)?;
        let Index { head, batches, content } = guarded(path, || Index::read(&mut file))?;
        let schema = guarded(path, || {
            let mut decoder = StreamDecoder::new();
            decoder.decode(&mut Buffer::from([head.as_slice(), &END].concat()))?;
            decoder.schema().ok_or_else(|| ArrowError::IpcError("the file has no schema".to_owned()))
        })?;
        let features = features_in(schema.metadata().get("huggingface").map(String::as_str));
        let columns = Columns::of_table(path, &columns(&schema, &features), options)?;
        let text = |name: String| TextColumn { leaf: None, labels: labels_in(&features, &name), name };
        let (caption, prompt, image) = (columns.caption.map(text), columns.prompt.map(text), columns.image);
        if let Ok(field) = schema.field_with_name(&image)
            && !is_picture(field)
        {
            let is_string =
                matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let (expected, found) = match is_string {
                true => (PICTURES, STRINGS.to_owned()),
                false => ("binary, or a struct with a binary field `bytes`", field.data_type().to_string()),
            };
            return Err(Error::ColumnType { path: path.to_owned(), column: image, expected, found });
        }
        Ok(Self { path: path.to_owned(), head, batches, content, caption, prompt, image })
    }

    /// Reads one record batch.
    fn batch(&self, index: usize) -> Result<RecordBatch> {
        let Batch { offset, length, .. } = self.batches[index];
        let mut file = open(&self.path)?;
        guarded(&self.path, || {
            let mut stream = self.head.clone();
            stream.resize(self.head.len() + length, 0);
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(&mut stream[self.head.len()..])?;
            stream.extend(END);
            let batch = StreamDecoder::new().decode(&mut Buffer::from(stream))?;
            batch.ok_or_else(|| ArrowError::IpcError("a record batch is not whole".to_owned()))
        })
    }

    fn column<'a>(&self, batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
        let missing =
            || Error::Arrow { path: self.path.clone(), why: format!("a record batch has no column {name}") };
        batch.column_by_name(name).ok_or_else(missing)
    }
}

impl Table for ArrowFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn groups(&self) -> Vec<Group> {
        // Pictures are nearly all of a batch.
        self.batches.iter().map(|batch| Group { rows: batch.rows, bytes: batch.length as u64 }).collect()
    }

    fn content(&self) -> u128 {
        self.content
    }

    fn caption(&self) -> Option<&TextColumn> {
        self.caption.as_ref()
    }

    fn prompt(&self) -> Option<&TextColumn> {
        self.prompt.as_ref()
    }

    fn reader(&self) -> Result<Box<dyn TableReader + '_>> {
        Ok(Box::new(OpenFile { file: self, last: RefCell::new(None) }))
    }
}

/// An Arrow file that is open for reading.
struct OpenFile<'a> {
    file: &'a ArrowFile,
    /// The record batch that was read last.
    last: RefCell<Option<(usize, RecordBatch)>>,
}

impl OpenFile<'_> {
    fn batch(&self, group: usize) -> Result<RecordBatch> {
        let mut last = self.last.borrow_mut();
        match &*last {
            Some((number, batch)) if *number == group => Ok(batch.clone()),
            _ => {
                let batch = self.file.batch(group)?;
                *last = Some((group, batch.clone()));
                Ok(batch)
            }
        }
    }
}

impl TableReader for OpenFile<'_> {
    fn pieces(&self, _group: usize) -> Result<Vec<usize>> {
        Ok(vec![0])
    }

    fn values(
        &self,
        group: usize,
        rows: Range<usize>,
        column: &TextColumn,
        each: &mut dyn FnMut(Option<Value>),
    ) -> Result<()> {
        let batch = self.batch(group)?;
        let array = self.file.column(&batch, &column.name)?;
        guarded(&self.file.path, || {
            rows.for_each(|row| each(Some(value(array, row))));
            Ok(())
        })
    }

    fn pictures(&self, group: usize, rows: Range<usize>) -> Result<(Column, Option<Column>)> {
        let batch = self.batch(group)?;
        let array = self.file.column(&batch, &self.file.image)?;
        guarded(&self.file.path, || {
            let (bytes, paths) = match array.data_type() {
                DataType::Struct(_) => {
                    let fields = array.as_struct();
                    (fields.column_by_name("bytes"), fields.column_by_name("path"))
                }
                _ => (Some(array), None),
            };
            let column = |field: &ArrayRef| {
                // The contents of a null struct are ignored.
                let bytes = |row| bytes_of(field, row).filter(|_| array.is_valid(row));
                Column::new(rows.clone().map(bytes))
            };
            let bytes = bytes.ok_or_else(|| ArrowError::SchemaError("no field `bytes`".to_owned()))?;
            Ok((column(bytes), paths.map(column)))
        })
    }
}

/// The end-of-stream marker. The decoder accepts a message only once something follows it.
const END: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// Where the parts of a file are.
struct Index {
    head: Vec<u8>,
    batches: Vec<Batch>,
    /// A hash of the headers.
    content: u128,
}

/// Where a record batch is.
#[derive(Debug, Clone, Copy)]
struct Batch {
    /// Its position in bytes.
    offset: u64,
    /// Its length in bytes.
    length: usize,
    rows: usize,
}

impl Index {
    /// Reads the headers of all messages. In a file of the random-access format the stream follows the
    /// signature.
    fn read(file: &mut File) -> std::result::Result<Self, ArrowError> {
        const CONTINUATION: u32 = u32::MAX;
        let size = file.metadata()?.len();
        let mut index = Self { head: Vec::new(), batches: Vec::new(), content: 0 };
        let mut hasher = XxHash3_128::with_seed(size);
        let mut signature = Vec::new();
        Read::by_ref(file).take(8).read_to_end(&mut signature)?;
        let mut at = if signature == *b"ARROW1\0\0" { 8 } else { 0 };
        loop {
            file.seek(SeekFrom::Start(at))?;
            let mut message = Vec::new();
            Read::by_ref(file).take(8).read_to_end(&mut message)?;
            let Some(prefix) = message.first_chunk::<8>() else { break };
            let [a, b, c, d, e, f, g, h] = *prefix;
            let length = u32::from_le_bytes([e, f, g, h]);
            if u32::from_le_bytes([a, b, c, d]) != CONTINUATION {
                return Err(ArrowError::IpcError("not an Arrow stream".to_owned()));
            }
            if length == 0 {
                break; // the end
            }
            Read::by_ref(file).take(length.into()).read_to_end(&mut message)?;
            let header = root_as_message(message.get(8..).unwrap_or_default())
                .map_err(|error| ArrowError::IpcError(error.to_string()))?;
            let total = 8 + u64::from(length) + u64::try_from(header.bodyLength()).unwrap_or(u64::MAX / 2);
            if at + total > size {
                return Err(ArrowError::IpcError("the file is cut short".to_owned()));
            }
            hasher.write(&message);
            if header.header_type() == MessageHeader::RecordBatch {
                let rows = header.header_as_record_batch().map_or(0, |batch| batch.length());
                let rows = usize::try_from(rows).unwrap_or_default();
                index.batches.push(Batch { offset: at, length: total as usize, rows });
            } else {
                file.seek(SeekFrom::Start(at))?;
                Read::by_ref(file).take(total).read_to_end(&mut index.head)?;
            }
            at += total;
        }
        index.content = hasher.finish_128();
        Ok(index)
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Adds the file's name to errors, and turns a panic on malformed bytes into an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> std::result::Result<T, ArrowError>) -> Result<T> {
    let panicked = || Err(ArrowError::IpcError("the reader panicked on it".to_owned()));
    let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| panicked());
    result.map_err(|error| Error::Arrow { path: path.to_owned(), why: error.to_string() })
}
