use crate::CaptionSource;

/// A part of a dataset whose rows are read together, such as a row group of a parquet file. Reading one of its rows
/// alone costs nearly as much as reading all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The number of its rows, which follow those of the previous shard.
    pub rows: usize,
    /// The size of its pictures in memory, in bytes, encoded as in the file.
    pub bytes: u64,
}

/// Datasets with more rows than this are large.
const LARGE_ROWS: usize = 50_000;
/// Datasets with more bytes of encoded pictures than this are large.
const LARGE_BYTES: u64 = 1 << 30;

/// Whether a dataset is too large to be read before its first use: it has more than 50,000 rows, or more than 1 GiB
/// of encoded pictures in its [`shards`](CaptionSource::shards).
///
/// The captions of a large dataset are read when they are needed, and are not checked when it is opened.
pub fn is_large(source: &dyn CaptionSource) -> bool {
    of_size(source.len(), &source.shards())
}

pub(crate) fn of_size(rows: usize, shards: &[Shard]) -> bool {
    rows > LARGE_ROWS || shards.iter().map(|shard| shard.bytes).sum::<u64>() > LARGE_BYTES
}

/// The default size of a window in which the rows of a large dataset are shuffled, in bytes of encoded pictures:
/// 96 MiB.
pub const WINDOW_BYTES: u64 = 96 << 20;

/// The [memory](crate::SourceOptions::memory) for a window of this many bytes, and for the data that is read in
/// addition: pieces extend beyond the ends of shards, and the next window begins before the last one is
/// finished.
pub fn window_memory(window: u64) -> usize {
    usize::try_from(window.saturating_add(window / 8).saturating_add(16 << 20)).unwrap_or(usize::MAX)
}

/// A sample of the rows of a dataset, in ascending order. With [`shards`](CaptionSource::shards), it has the
/// first 64 rows of up to 16 shards at equal distances: as many as take about 256 MiB together, but at least
/// two. Without shards, it has up to 1,024 rows at equal distances. It has all rows if there are no more than
/// that.
pub fn sample_rows(source: &dyn CaptionSource) -> Vec<usize> {
    const SHARDS: usize = 16;
    const ROWS: usize = 64;
    const BYTES: u64 = 256 << 20;
    let len = source.len();
    let even = |of: usize, count: usize| (0..count.min(of)).map(move |at| at * of / count.min(of));
    let shards = source.shards();
    if shards.len() < 2 {
        return even(len, SHARDS * ROWS).collect();
    }
    let mut first = 0;
    let starts: Vec<(usize, usize)> = shards
        .iter()
        .map(|shard| {
            first += shard.rows;
            (first - shard.rows, shard.rows)
        })
        .collect();
    // A shard is read whole.
    let average = shards.iter().map(|shard| shard.bytes).sum::<u64>() / shards.len() as u64;
    let count = (BYTES / average.max(1)).clamp(2, SHARDS as u64) as usize;
    let rows = even(starts.len(), count).flat_map(|shard| {
        let (start, rows) = starts[shard];
        start..start + rows.min(ROWS)
    });
    rows.collect()
}
