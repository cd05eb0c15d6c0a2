//! The common interface of parquet and Arrow files: columns of rows in groups, which are read one at a time.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut, Range};
use std::path::Path;

use memmap2::MmapMut;
use parquet::data_type::ByteArray;
use serde_json::Value;

use crate::Result;

/// A file whose columns of pictures and texts are already chosen.
pub(crate) trait Table: Debug + Send + Sync {
    fn path(&self) -> &Path;

    /// The row groups, in order.
    fn groups(&self) -> Vec<Group>;

    /// A hash of the file's size and of its metadata, which describe everything but the values themselves.
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

/// The byte strings of neighbouring rows, each of which may be null.
#[derive(Debug)]
pub(crate) enum Column {
    /// Copied into one place, so that a piece holds no pages of the file.
    Joined {
        bytes: Bytes,
        /// The end of each string in `bytes`, and whether the string is not null.
        rows: Vec<(usize, bool)>,
    },
    /// Parts of one large page, which is kept in memory.
    Kept(Vec<Option<ByteArray>>),
}

impl Column {
    /// A copy of these strings.
    pub(crate) fn new<'a>(rows: impl Iterator<Item = Option<&'a [u8]>> + Clone) -> Self {
        let length = rows.clone().flatten().map(<[u8]>::len).sum();
        let (mut bytes, mut ends, mut end) = (Bytes::zeroed(length), Vec::new(), 0);
        for row in rows {
            let start = end;
            end += row.map_or(0, <[u8]>::len);
            bytes[start..end].copy_from_slice(row.unwrap_or_default());
            ends.push((end, row.is_some()));
        }
        ends.shrink_to_fit();
        Self::Joined { bytes, rows: ends }
    }

    pub(crate) fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Joined { bytes, rows } => {
                let (end, is_there) = *rows.get(row)?;
                let start = row.checked_sub(1).map_or(0, |before| rows[before].0);
                is_there.then(|| &bytes[start..end])
            }
            Self::Kept(values) => values.get(row)?.as_ref().map(ByteArray::data),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|row| self.get(row))
    }

    fn len(&self) -> usize {
        match self {
            Self::Joined { rows, .. } => rows.len(),
            Self::Kept(values) => values.len(),
        }
    }

    /// The memory that it takes.
    pub(crate) fn total_bytes(&self) -> usize {
        self.len() * Self::ROW_BYTES + self.iter().flatten().map(<[u8]>::len).sum::<usize>()
    }

    /// The memory that a row takes besides its bytes.
    pub(crate) const ROW_BYTES: usize = size_of::<(usize, bool)>();
}

/// Bytes that have their own memory mapping if they are many. Pieces of a file are allocated and freed often,
/// and would fragment the allocator's memory.
#[derive(Debug)]
pub(crate) enum Bytes {
    Allocated(Vec<u8>),
    Mapped(MmapMut),
}

/// The least number of bytes for a mapping.
const MAPPED: usize = 1 << 20;

impl Bytes {
    fn zeroed(length: usize) -> Self {
        let mapped = (length >= MAPPED).then(|| MmapMut::map_anon(length).ok()).flatten();
        mapped.map_or_else(|| Self::Allocated(vec![0; length]), Self::Mapped)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Allocated(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Allocated(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}
