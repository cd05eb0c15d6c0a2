//! The common interface of parquet and Arrow files: columns of rows in groups, which are read one at a time.

use std::fmt::Debug;
use std::path::Path;

use parquet::data_type::ByteArray;
use serde_json::Value;

use crate::Result;

/// A file whose columns of pictures and texts are already chosen.
pub(crate) trait Table: Debug + Send + Sync {
    fn path(&self) -> &Path;

    /// The number of row groups.
    fn groups(&self) -> usize;

    fn caption(&self) -> Option<&TextColumn>;

    fn prompt(&self) -> Option<&TextColumn>;

    /// Opens a new reader. Each caller needs its own, since a file handle has only one position.
    fn reader(&self) -> Result<Box<dyn TableReader + '_>>;
}

/// Reads groups of rows.
pub(crate) trait TableReader {
    /// The number of rows in a group.
    fn rows(&self, group: usize) -> Result<usize>;

    /// The values of a text column, one for each row of a group; `None` for a string that is not UTF-8.
    fn values(&self, group: usize, column: &TextColumn) -> Result<Vec<Option<Value>>>;

    /// The bytes of the pictures of a group, and their paths if the file has them.
    fn pictures(&self, group: usize) -> Result<(Column, Option<Column>)>;
}

/// A column of captions or prompts.
#[derive(Debug)]
pub(crate) struct TextColumn {
    pub(crate) name: String,
    /// The index of its leaf in a parquet file, if it holds one string per row.
    pub(crate) leaf: Option<usize>,
    /// The names of class labels.
    pub(crate) labels: Option<Vec<String>>,
}

/// The byte strings of one group, each of which may be null.
#[derive(Debug)]
pub(crate) struct Column {
    rows: Vec<Option<ByteArray>>,
}

impl Column {
    pub(crate) fn new(rows: Vec<Option<ByteArray>>) -> Self {
        Self { rows }
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
