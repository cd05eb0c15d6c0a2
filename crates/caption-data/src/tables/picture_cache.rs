//! A cache of the encoded pictures of a table that were read last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::recent::Recent;
use super::table::{Column, Table};
use crate::Result;

/// Encoded pictures in the pieces in which they are read.
#[derive(Debug)]
pub(super) struct PictureCache(Mutex<Pieces>);

#[derive(Debug)]
struct Pieces {
    /// By row group of the dataset, and the first row of the piece in it.
    recent: Recent<(usize, usize), Pictures>,
    /// The first rows of the pieces of each group whose pages have been read.
    starts: HashMap<usize, Arc<[usize]>>,
}

/// The pictures of a piece.
#[derive(Debug)]
pub(super) struct Pictures {
    pub(super) bytes: Column,
    pub(super) paths: Option<Column>,
}

/// A row group: its number in the dataset, its file, and its index and the number of its rows there.
pub(super) struct Place<'a> {
    pub(super) number: usize,
    pub(super) file: &'a dyn Table,
    pub(super) index: usize,
    pub(super) rows: usize,
}

impl PictureCache {
    /// An empty cache for this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(Pieces { recent: Recent::new(bytes), starts: HashMap::new() }))
    }

    /// The pictures of the piece with row `at` of a group, and the first row of the piece.
    pub(super) fn get(&self, group: &Place<'_>, at: usize) -> Result<(Arc<Pictures>, usize)> {
        // The lock is held while reading, because a thread that waits for it most likely needs the same piece.
        let mut pieces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let starts = match pieces.starts.get(&group.number) {
            Some(starts) => Arc::clone(starts),
            None => {
                let starts: Arc<[usize]> = group.file.reader()?.pieces(group.index)?.into();
                pieces.starts.insert(group.number, Arc::clone(&starts));
                starts
            }
        };
        let piece = starts.partition_point(|start| *start <= at) - 1;
        let (first, end) = (starts[piece], starts.get(piece + 1).copied().unwrap_or(group.rows));
        if let Some(pictures) = pieces.recent.get(&(group.number, first)) {
            return Ok((pictures, first));
        }
        let (bytes, paths) = group.file.reader()?.pictures(group.index, first..end)?;
        let total = bytes.total_bytes() + paths.as_ref().map_or(0, Column::total_bytes);
        Ok((pieces.recent.add((group.number, first), Pictures { bytes, paths }, total), first))
    }
}
