//! Reads columns of a parquet file.

use std::fs::File;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type as SchemaType;
use serde_json::Value;

use super::parquet_schema;
use super::table::{Column, Table, TableReader, TextColumn};
use crate::columns::Columns;
use crate::{Error, Result, SourceOptions, lfs};

/// Where a parquet file holds the picture and the texts of each row.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    path: PathBuf,
    groups: usize,
    caption: Option<TextColumn>,
    prompt: Option<TextColumn>,
    /// Indices of the file's leaf columns.
    pictures: usize,
    paths: Option<usize>,
}

pub(crate) type Reader = SerializedFileReader<File>;

impl ParquetFile {
    pub(crate) fn open(path: &Path, options: &SourceOptions) -> Result<Self> {
        let reader = reader(path)?;
        let metadata = reader.metadata().file_metadata();
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
            groups: reader.num_row_groups(),
            caption: columns.caption.map(text),
            prompt: columns.prompt.map(text),
            pictures,
            paths,
        })
    }
}

impl Table for ParquetFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn groups(&self) -> usize {
        self.groups
    }

    fn caption(&self) -> Option<&TextColumn> {
        self.caption.as_ref()
    }

    fn prompt(&self) -> Option<&TextColumn> {
        self.prompt.as_ref()
    }

    fn reader(&self) -> Result<Box<dyn TableReader + '_>> {
        Ok(Box::new(OpenFile { file: self, reader: reader(&self.path)? }))
    }
}

/// A parquet file that is open for reading.
struct OpenFile<'a> {
    file: &'a ParquetFile,
    reader: Reader,
}

impl TableReader for OpenFile<'_> {
    fn rows(&self, group: usize) -> Result<usize> {
        Ok(self.reader.metadata().row_group(group).num_rows() as usize)
    }

    fn values(&self, group: usize, column: &TextColumn) -> Result<Vec<Option<Value>>> {
        if let Some(leaf) = column.leaf {
            let text = |text: Option<&[u8]>| match text {
                Some(text) => str::from_utf8(text).ok().map(Value::from),
                None => Some(Value::Null),
            };
            return Ok(self.read(group, leaf)?.iter().map(text).collect());
        }
        guarded(&self.file.path, || {
            let schema = self.reader.metadata().file_metadata().schema_descr().root_schema();
            let field = schema.get_fields().iter().find(|field| field.name() == column.name);
            let fields = field.into_iter().cloned().collect();
            let projection = SchemaType::group_type_builder(schema.name()).with_fields(fields).build()?;
            let group = self.reader.get_row_group(group)?;
            let rows = RowIter::from_row_group(Some(projection), group.as_ref())?;
            let value = |row: parquet::record::Row| {
                row.get_column_iter().next().map(|(_, field)| field.to_json_value())
            };
            rows.map(|row| Ok(value(row?))).collect()
        })
    }

    fn pictures(&self, group: usize) -> Result<(Column, Option<Column>)> {
        let paths = self.file.paths.map(|column| self.read(group, column)).transpose()?;
        Ok((self.read(group, self.file.pictures)?, paths))
    }
}

impl OpenFile<'_> {
    fn read(&self, group: usize, column: usize) -> Result<Column> {
        guarded(&self.file.path, || read_column(&self.reader, group, column))
    }
}

/// One column of one row group. The strings are slices of the file's pages, not copies.
fn read_column(reader: &Reader, group: usize, column: usize) -> parquet::errors::Result<Column> {
    let group = reader.get_row_group(group)?;
    let expected = group.metadata().num_rows() as usize;
    let present = group.metadata().column(column).column_descr().max_def_level();
    let ColumnReader::ByteArrayColumnReader(mut column) = group.get_column_reader(column)? else {
        return Err(parquet::errors::ParquetError::General("not a column of byte strings".to_owned()));
    };
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (rows, _, _) = column.read_records(expected, Some(&mut levels), None, &mut values)?;
    if rows != expected {
        let message = format!("a row group should have {expected} rows and has {rows}");
        return Err(parquet::errors::ParquetError::EOF(message));
    }
    // A definition level below the maximum means that the value, or a struct around it, is null.
    let mut values = values.into_iter();
    Ok(Column::new(if present == 0 {
        values.map(Some).collect()
    } else {
        levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect()
    }))
}

/// Opens a parquet file.
pub(crate) fn reader(path: &Path) -> Result<Reader> {
    let file = File::open(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    lfs::check_start(path, &file)?;
    guarded(path, || SerializedFileReader::new(file)).map_err(|error| not_parquet(path, error))
}

/// Says what a file is that could not be opened.
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
        format!("it is no parquet file, although its name says so: it begins with \"{start}\"")
    };
    Error::NotParquet { path: path.to_owned(), why }
}

/// Adds the file's name to errors, and turns a panic on malformed bytes into an error.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let panicked = || Err(parquet::errors::ParquetError::General("the reader panicked on it".to_owned()));
    let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| panicked());
    result.map_err(|error| Error::Parquet { path: path.to_owned(), why: error.to_string() })
}
