//! Reads columns of a parquet file.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::page::PageReader as _;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader as _, FileReader, Length as _, SerializedFileReader};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type as SchemaType;
use serde_json::Value;
use twox_hash::XxHash3_128;

use super::parquet_schema;
use super::place::{Place, RemoteFile};
use super::table::{Column, Group, Table, TableReader, TextColumn};
use crate::columns::Columns;
use crate::{Error, Result, SourceOptions, lfs};

/// Where a parquet file holds the picture and the texts of each row.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    /// Its path; the name of a file that is not on a disk.
    path: PathBuf,
    /// A file that is not on a disk.
    remote: Option<Arc<dyn RemoteFile>>,
    /// The file's footer, which is read once.
    metadata: Arc<ParquetMetaData>,
    content: u128,
    caption: Option<TextColumn>,
    prompt: Option<TextColumn>,
    /// Indices of the file's leaf columns.
    pictures: usize,
    paths: Option<usize>,
}

/// The number of bytes of pictures that are read together, if pages are smaller.
const PIECE: u64 = 8 << 20;

impl ParquetFile {
    pub(crate) fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        let reader = reader(path)?;
        let place = on_disk(path)?;
        Self::new(path, None, &place, &reader, options)
    }

    /// Opens a file that is not on a disk. Its footer is read.
    pub(crate) fn open_remote(file: Arc<dyn RemoteFile>, options: &SourceOptions) -> Result<Self> {
        let place = Place::Remote(Arc::clone(&file));
        let reader = guarded(file.name(), || SerializedFileReader::new(place.clone()))?;
        Self::new(file.name(), Some(Arc::clone(&file)), &place, &reader, options)
    }

    fn new(
        path: &Path,
        remote: Option<Arc<dyn RemoteFile>>,
        place: &Place,
        reader: &dyn FileReader,
        options: &SourceOptions,
    ) -> Result<Self> {
        let footer = Arc::new(reader.metadata().clone());
        let metadata = footer.file_metadata();
        let schema = metadata.schema_descr();
        let columns = Columns::of_table(path, &parquet_schema::columns(metadata), options)?;
        let (pictures, paths) = parquet_schema::pictures(path, schema, &columns.image)?;
        let text = |name: String| TextColumn {
            leaf: parquet_schema::leaf(schema, &name, &[]),
            labels: parquet_schema::labels(metadata, &name),
            name,
        };
        Ok(Self {
            path: path.to_owned(),
            remote,
            content: guarded(path, || content(place))?,
            caption: columns.caption.map(text),
            prompt: columns.prompt.map(text),
            pictures,
            paths,
            metadata: footer,
        })
    }
}

impl Table for ParquetFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn groups(&self) -> Vec<Group> {
        let group = |group: &RowGroupMetaData| Group {
            rows: usize::try_from(group.num_rows()).unwrap_or_default(),
            bytes: u64::try_from(group.column(self.pictures).uncompressed_size()).unwrap_or_default(),
        };
        self.metadata.row_groups().iter().map(group).collect()
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
        let place = match &self.remote {
            Some(file) => Place::Remote(Arc::clone(file)),
            None => on_disk(&self.path)?,
        };
        Ok(Box::new(OpenFile { table: self, place: Arc::new(place) }))
    }
}

/// A parquet file that is open for reading.
struct OpenFile<'a> {
    table: &'a ParquetFile,
    place: Arc<Place>,
}

impl TableReader for OpenFile<'_> {
    fn pieces(&self, group: usize) -> Result<Vec<usize>> {
        guarded(&self.table.path, || self.page_boundaries(group))
    }

    fn values(
        &self,
        group: usize,
        rows: Range<usize>,
        column: &TextColumn,
        each: &mut dyn FnMut(Option<Value>),
    ) -> Result<()> {
        if let Some(leaf) = column.leaf {
            for text in self.read(group, rows, leaf)?.iter() {
                each(match text {
                    Some(text) => str::from_utf8(text).ok().map(Value::from),
                    None => Some(Value::Null),
                });
            }
            return Ok(());
        }
        guarded(&self.table.path, || {
            let schema = self.table.metadata.file_metadata().schema_descr().root_schema();
            let field = schema.get_fields().iter().find(|field| field.name() == column.name);
            let fields = field.into_iter().cloned().collect();
            let projection = SchemaType::group_type_builder(schema.name()).with_fields(fields).build()?;
            let reader = SerializedFileReader::new(Place::clone(&self.place))?;
            let group = reader.get_row_group(group)?;
            for row in
                RowIter::from_row_group(Some(projection), group.as_ref())?.skip(rows.start).take(rows.len())
            {
                each(row?.get_column_iter().next().map(|(_, field)| field.to_json_value()));
            }
            Ok(())
        })
    }

    fn pictures(&self, group: usize, rows: Range<usize>) -> Result<(Column, Option<Column>)> {
        let paths = self.table.paths.map(|column| self.read(group, rows.clone(), column)).transpose()?;
        Ok((self.read(group, rows, self.table.pictures)?, paths))
    }
}

impl OpenFile<'_> {
    fn read(&self, group: usize, rows: Range<usize>, column: usize) -> Result<Column> {
        guarded(&self.table.path, || self.read_column(group, rows, column))
    }

    fn pages(&self, group: usize, column: usize) -> parquet::errors::Result<SerializedPageReader<Place>> {
        let group = self.table.metadata.row_group(group);
        SerializedPageReader::new(
            Arc::clone(&self.place),
            group.column(column),
            group.num_rows() as usize,
            None,
        )
    }

    /// Divides the rows of a group into pieces of whole pages of pictures. Reads the headers of the pages.
    fn page_boundaries(&self, group: usize) -> parquet::errors::Result<Vec<usize>> {
        let metadata = self.table.metadata.row_group(group);
        let rows = metadata.num_rows() as usize;
        let bytes = metadata.column(self.table.pictures).uncompressed_size() as u64;
        let mut starts = vec![0];
        if bytes <= PIECE {
            return Ok(starts);
        }
        let least = (rows as u64 * PIECE / bytes) as usize;
        let mut pages = self.pages(group, self.table.pictures)?;
        let (mut row, mut start) = (0, 0);
        while let Some(page) = pages.peek_next_page()? {
            pages.skip_next_page()?;
            // The column is not repeated: a page has as many levels as rows.
            row += page.num_rows.or(page.num_levels).filter(|_| !page.is_dict).unwrap_or_default();
            if row < rows && row - start > least {
                starts.push(row);
                start = row;
            }
        }
        Ok(starts)
    }

    /// Some rows of one column of a row group.
    fn read_column(
        &self,
        group: usize,
        rows: Range<usize>,
        column: usize,
    ) -> parquet::errors::Result<Column> {
        let descriptor = self.table.metadata.row_group(group).column(column).column_descr_ptr();
        let present = descriptor.max_def_level();
        let pages = Box::new(self.pages(group, column)?);
        let ColumnReader::ByteArrayColumnReader(mut column) = get_column_reader(descriptor, pages) else {
            return Err(ParquetError::General("not a column of byte strings".to_owned()));
        };
        let skipped = column.skip_records(rows.start)?;
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (read, _, _) = column.read_records(rows.len(), Some(&mut levels), None, &mut values)?;
        if skipped != rows.start || read != rows.len() {
            let message = format!("a row group should have {} rows and has {}", rows.end, skipped + read);
            return Err(ParquetError::EOF(message));
        }
        let length: usize = values.iter().map(ByteArray::len).sum();
        let mut values = values.into_iter();
        // A definition level below the maximum means that the value, or a struct around it, is null.
        let values: Vec<Option<ByteArray>> = match present {
            0 => values.map(Some).collect(),
            _ => levels.iter().map(|level| if *level == present { values.next() } else { None }).collect(),
        };
        if length as u64 > 2 * PIECE {
            // Little more than one page.
            return Ok(Column::Kept(values));
        }
        Ok(Column::new(values.iter().map(|value| value.as_ref().map(ByteArray::data))))
    }
}

/// A hash of a file's size and footer. The footer has the sizes and statistics of all columns of all row
/// groups, so that nearly every edit changes it.
fn content(place: &Place) -> parquet::errors::Result<u128> {
    let size = place.len();
    let tail = place.get_bytes(size.saturating_sub(8), 4)?;
    let footer = tail.first_chunk().map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
    let footer = footer.saturating_add(8).min(size);
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&place.get_bytes(size - footer, footer as usize)?);
    Ok(XxHash3_128::oneshot(&bytes))
}

fn on_disk(path: &Path) -> Result<Place> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok(Place::Disk(Arc::new(file)))
}

type Reader = SerializedFileReader<File>;

/// Opens a parquet file.
pub(crate) fn reader(path: &Path) -> Result<Reader> {
    let file = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    lfs::check_start(path, &file)?;
    guarded(path, || SerializedFileReader::new(file)).map_err(|error| not_parquet(path, error))
}

/// Describes the actual kind of a file that could not be opened.
fn not_parquet(path: &Path, error: Error) -> Error {
    let Error::Parquet { why: reason, .. } = &error else { return error };
    let mut start = Vec::new();
    if File::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).is_err() {
        return error;
    }
    let why = if start.is_empty() {
        "the file is empty; download it again".to_owned()
    } else if start.starts_with(b"PAR1") {
        format!("the parquet file is cut short or damaged; download it again ({reason})")
    } else if start.trim_ascii_start().starts_with(b"<") {
        "it is a web page and no parquet file, perhaps one that asks to log in; download the file again"
            .to_owned()
    } else {
        let start = start[..start.len().min(8)].escape_ascii();
        format!("it is not a parquet file, although its name says so: it begins with \"{start}\"")
    };
    Error::NotParquet { path: path.to_owned(), why }
}

/// Adds the file's name to errors, and turns a panic on malformed bytes into an error.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let panicked = || Err(parquet::errors::ParquetError::General("the reader panicked on it".to_owned()));
    let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| panicked());
    result.map_err(|error| Error::Parquet { path: path.to_owned(), why: error.to_string() })
}
