//! The common interface of parquet and Arrow files: columns of rows in groups, which are read one at a time.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use crate::Result;

/// A file whose columns of pictures and texts are already chosen.
pub(crate) trait Table: Debug + Send + Sync {
    fn path(&self) -> &Path;

    /// The row groups, in order.
    fn groups(&self) -> Vec<Group>;

    /// A hash of the file's size and of its description of its content: of all but the values themselves.
    fn content(&self) -> u128;

    fn caption(&self) -> Option<&TextColumn>;

    fn prompt(&self) -> Option<&TextColumn>;

    /// Opens a new reader. Each caller needs its own, since a file handle has only one position.
    fn reader(&self) -> Result<Box<dyn TableReader + '_>>;
}

/// The size of a row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: usize,
    /// The bytes of its pictures, uncompressed but as encoded as the picture files are.
    pub(crate) bytes: u64,
}

/// Reads groups of rows.
pub(crate) trait TableReader {
    /// The first row of each piece of a group, beginning with row 0. The pictures of a piece are in the same
    /// pages of the file, so that reading one of them costs as much as reading all.
    fn pieces(&self, group: usize) -> Result<Vec<usize>>;

    /// Calls `each` with the values of a text column in some rows of a group, in order; with `None` for a
    /// string that is not UTF-8.
    fn values(
        &self,
        group: usize,
        rows: Range<usize>,
        column: &TextColumn,
        each: &mut dyn FnMut(Option<Value>),
    ) -> Result<()>;

    /// The bytes of the pictures of some rows of a group, and their paths if the file has them.
    fn pictures(&self, group: usize, rows: Range<usize>) -> Result<(Column, Option<Column>)>;
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

/// The byte strings of neighbouring rows, each of which may be null. They are in one allocation, so that pieces of a
/// file that come and go leave no holes in memory.
#[derive(Debug)]
pub(crate) struct Column {
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`, and whether it is there.
    rows: Vec<(usize, bool)>,
}

impl Column {
    pub(crate) fn new<'a>(rows: impl Iterator<Item = Option<&'a [u8]>> + Clone) -> Self {
        let length = rows.clone().flatten().map(<[u8]>::len).sum();
        let mut this = Self { bytes: Vec::with_capacity(length), rows: Vec::new() };
        for row in rows {
            this.bytes.extend_from_slice(row.unwrap_or_default());
            this.rows.push((this.bytes.len(), row.is_some()));
        }
        this.rows.shrink_to_fit();
        this
    }

    pub(crate) fn get(&self, row: usize) -> Option<&[u8]> {
        let (end, is_there) = *self.rows.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].0);
        is_there.then(|| &self.bytes[start..end])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.rows.len()).map(|row| self.get(row))
    }

    /// The memory that it takes.
    pub(crate) fn total_bytes(&self) -> usize {
        self.rows.len() * Self::ROW_BYTES + self.bytes.len()
    }

    /// The memory that a row takes besides its bytes.
    pub(crate) const ROW_BYTES: usize = size_of::<(usize, bool)>();
}
