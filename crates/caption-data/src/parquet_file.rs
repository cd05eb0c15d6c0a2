//! The two columns that are read of a parquet file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use crate::{Error, Result, lfs};

/// Where the picture and the caption of a row are in a parquet file.
#[derive(Debug)]
pub(crate) struct ParquetFile {
    path: PathBuf,
    groups: usize,
    /// Numbers of the file's leaf columns.
    captions: usize,
    pictures: usize,
    paths: Option<usize>,
}

pub(crate) type Reader = SerializedFileReader<File>;

impl ParquetFile {
    pub(crate) fn open(path: &Path, image_column: &str, caption_column: &str) -> Result<Self> {
        let reader = reader(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let captions = find(path, schema, caption_column, &[&[]], "a string")?;
        let pictures = find(
            path,
            schema,
            image_column,
            &[&[], &["bytes"]],
            "binary, or a struct with a binary field `bytes`",
        )?;
        if is_text(&schema.column(pictures)) {
            return Err(Error::ColumnType {
                path: path.to_owned(),
                column: image_column.to_owned(),
                expected: "the bytes of pictures",
                found: "strings (paths or addresses); write the pictures themselves into the file".to_owned(),
            });
        }
        let paths = leaf(schema, image_column, &["path"]);
        Ok(Self { path: path.to_owned(), groups: reader.num_row_groups(), captions, pictures, paths })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// A reader of its own for whoever reads: one file handle has only one position.
    pub(crate) fn reader(&self) -> Result<Reader> {
        reader(&self.path)
    }

    pub(crate) fn captions(&self, reader: &Reader, group: usize) -> Result<Column> {
        self.read(reader, group, self.captions)
    }

    pub(crate) fn pictures(&self, reader: &Reader, group: usize) -> Result<Column> {
        self.read(reader, group, self.pictures)
    }

    pub(crate) fn paths(&self, reader: &Reader, group: usize) -> Result<Option<Column>> {
        self.paths.map(|column| self.read(reader, group, column)).transpose()
    }

    fn read(&self, reader: &Reader, group: usize, column: usize) -> Result<Column> {
        guarded(&self.path, || Column::read(reader, group, column))
    }
}

/// One column of one row group: a byte string or null for each row. The strings are parts of the file's
/// pages, not copies.
#[derive(Debug)]
pub(crate) struct Column {
    rows: Vec<Option<ByteArray>>,
}

impl Column {
    fn read(reader: &Reader, group: usize, column: usize) -> parquet::errors::Result<Self> {
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
        // A level below the highest says that the value, or a struct around it, is null.
        let mut values = values.into_iter();
        let rows = if present == 0 {
            values.map(Some).collect()
        } else {
            levels.into_iter().map(|level| if level == present { values.next() } else { None }).collect()
        };
        Ok(Self { rows })
    }

    pub(crate) fn get(&self, row: usize) -> Option<&[u8]> {
        self.rows.get(row)?.as_ref().map(ByteArray::data)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.rows.len()).map(|row| self.get(row))
    }

    pub(crate) fn total_bytes(&self) -> usize {
        self.iter().flatten().map(<[u8]>::len).sum()
    }
}

fn reader(path: &Path) -> Result<Reader> {
    let file = File::open(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    lfs::check_start(path, &file)?;
    guarded(path, || SerializedFileReader::new(file))
}

/// Names the file in errors, and makes an error of a panic on malformed bytes.
pub(crate) fn guarded<T>(path: &Path, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let panicked = || Err(parquet::errors::ParquetError::General("the reader panicked on it".to_owned()));
    let result = catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| panicked());
    result.map_err(|error| Error::Parquet { path: path.to_owned(), error })
}

/// The byte-string column of that name, or the field of it that comes first in `fields`.
fn find(
    path: &Path,
    schema: &SchemaDescriptor,
    name: &str,
    fields: &[&[&str]],
    expected: &'static str,
) -> Result<usize> {
    let columns = schema.root_schema().get_fields();
    if !columns.iter().any(|column| column.name() == name) {
        let available = columns.iter().map(|column| column.name().to_owned()).collect();
        return Err(Error::MissingColumn { path: path.to_owned(), column: name.to_owned(), available });
    }
    fields.iter().find_map(|field| leaf(schema, name, field)).ok_or_else(|| {
        let leaves = schema.columns().iter().filter(|leaf| leaf.path().parts()[0] == name);
        let found: Vec<_> =
            leaves.map(|leaf| format!("{} {}", leaf.path().string(), leaf.physical_type())).collect();
        Error::ColumnType {
            path: path.to_owned(),
            column: name.to_owned(),
            expected,
            found: found.join(", "),
        }
    })
}

/// The number of the leaf at `name.field`, if it holds one byte string a row.
fn leaf(schema: &SchemaDescriptor, name: &str, field: &[&str]) -> Option<usize> {
    schema.columns().iter().position(|leaf| {
        let parts = leaf.path().parts();
        parts[0] == name
            && parts[1..] == *field
            && leaf.max_rep_level() == 0
            && leaf.physical_type() == Type::BYTE_ARRAY
    })
}

fn is_text(column: &ColumnDescriptor) -> bool {
    column.converted_type() == ConvertedType::UTF8 || column.logical_type_ref() == Some(&LogicalType::String)
}
