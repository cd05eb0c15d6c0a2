//! Datasets that are too large to be read before their first use.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use caption_data::{
    CaptionSource, Concat, Error, Inspection, ParquetSource, RemoteFile, Shard, SourceOptions, Subset,
    is_large, sample_rows,
};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// Writes a parquet file: `groups` has the rows of each row group, `picture` and `text` make the values of a row.
fn write(
    path: &Path,
    groups: &[usize],
    picture: impl Fn(usize) -> Vec<u8>,
    text: impl Fn(usize) -> Option<String>,
) {
    let schema = "message dataset { required binary image; optional binary text (STRING); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties =
        WriterProperties::builder().set_dictionary_enabled(false).set_data_page_size_limit(100_000);
    let properties = properties.set_write_batch_size(64).build().into();
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut first = 0;
    for &rows in groups {
        let rows = first..first + rows;
        first = rows.end;
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.clone().map(|row| picture(row).into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts: Vec<Option<String>> = rows.map(&text).collect();
        let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
        let values: Vec<ByteArray> = texts.into_iter().flatten().map(|text| text.as_str().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn text(row: usize) -> Option<String> {
    (row % 1000 != 7).then(|| format!("picture {row}"))
}

/// Bytes of a row: no picture, as only their fingerprint is read here.
fn bytes(row: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (row * 31 + at / 7) as u8).collect()
}

fn open(path: &Path, memory: Option<usize>) -> ParquetSource {
    ParquetSource::open(&[path], &SourceOptions { memory, ..SourceOptions::default() }).unwrap()
}

/// Rows in an order with many jumps.
fn jumps(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(97).map(move |row| row * 7919 % len)
}

#[test]
fn the_captions_of_a_large_file_are_read_when_they_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.parquet");
    write(&path, &[20_000, 1, 40_000], |row| bytes(row, 3), text);
    let source = open(&path, None);
    assert!(is_large(&source) && source.len() == 60_001);
    for row in jumps(60_001).chain([0, 19_999, 20_000, 20_001, 60_000]) {
        match text(row) {
            Some(text) => assert_eq!(source.captions(row).unwrap(), [text]),
            None => assert!(matches!(source.caption(row), Err(Error::Row { row: at, .. }) if at == row)),
        }
    }
    assert!(matches!(source.caption(60_001), Err(Error::RowOutOfRange { .. })));
}

#[test]
fn pictures_are_read_by_pages_whatever_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pages.parquet");
    // 40 MB in one row group of 400 pages, and two small groups.
    let picture = |row: usize| bytes(row, 20_000 + row % 100);
    write(&path, &[3, 2000, 5], picture, |row| Some(format!("picture {row}")));
    for memory in [None, Some(0), Some(20 << 20)] {
        let source = open(&path, memory);
        for row in jumps(2008).chain(0..5).chain(2000..2008) {
            let expected = xxhash(&picture(row));
            assert_eq!(source.fingerprint(row).unwrap(), expected, "row {row}, {memory:?}");
        }
    }
}

/// A file in memory, of which few bytes are read at a time.
#[derive(Debug)]
struct Elsewhere {
    bytes: Vec<u8>,
    read: AtomicUsize,
}

impl RemoteFile for Elsewhere {
    fn name(&self) -> &Path {
        Path::new("someone/drawings/a.parquet")
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, start: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let start = start as usize;
        self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        let part = self.bytes.get(start..start + bytes.len());
        bytes.copy_from_slice(part.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[test]
fn a_file_that_is_not_on_a_disk_is_read_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // A large group of one page, and small ones.
    let picture = |row: usize| bytes(row, if row < 60 { 400_000 } else { 30 });
    write(&path, &[60, 50_000, 300], picture, text);
    let local = open(&path, None);
    let file = Arc::new(Elsewhere { bytes: std::fs::read(&path).unwrap(), read: AtomicUsize::default() });
    let options = SourceOptions::default();
    let remote = ParquetSource::open_remote("someone/drawings", vec![file.clone()], &options).unwrap();
    let footer = file.read.load(Ordering::Relaxed);
    assert!(footer < 100_000, "{footer} bytes are read at first");
    assert_eq!((remote.len(), remote.shards(), remote.content()), (50_360, local.shards(), local.content()));
    for row in [3, 59, 60, 20_000, 50_359] {
        assert_eq!(remote.fingerprint(row).unwrap(), xxhash(&picture(row)));
        assert_eq!(remote.captions(row).unwrap(), local.captions(row).unwrap());
    }

    let cut = Elsewhere { bytes: file.bytes[..1000].to_vec(), read: AtomicUsize::default() };
    let error = ParquetSource::open_remote("x", vec![Arc::new(cut)], &options).unwrap_err().to_string();
    assert!(error.contains("someone/drawings/a.parquet"), "{error}");
}

fn xxhash(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}

#[test]
fn shards_are_row_groups_and_large_groups_are_divided() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shards.parquet");
    write(&path, &[3, 150, 4], |row| vec![row as u8; 1_000_000], |row| Some(format!("picture {row}")));
    let source = Arc::new(open(&path, None));
    let shards = source.shards();
    let rows: Vec<usize> = shards.iter().map(|shard| shard.rows).collect();
    assert_eq!(rows, [3, 30, 30, 30, 30, 30, 4]);
    assert!(
        shards.iter().all(|shard| shard.bytes.abs_diff(shard.rows as u64 * 1_000_000) < 20_000),
        "{shards:?}"
    );
    assert!(!is_large(&source));
    // All shards together are small enough, and each has fewer than 64 rows.
    assert_eq!(sample_rows(&source).len(), 157);

    let some = Subset::new(source, vec![1, 2, 3, 34, 156]);
    let rows: Vec<usize> = some.unwrap().shards().iter().map(|shard| shard.rows).collect();
    assert_eq!(rows, [2, 1, 1, 1]);
}

/// A dataset that has only shards.
struct Shards(Vec<Shard>);

impl CaptionSource for Shards {
    fn name(&self) -> String {
        "shards".to_owned()
    }

    fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.rows).sum()
    }

    fn caption(&self, _row: usize) -> caption_data::Result<String> {
        Err(Error::BlankCaption)
    }

    fn image(&self, _row: usize) -> caption_data::Result<caption_data::RgbImage> {
        Err(Error::NoPicture)
    }

    fn shards(&self) -> Vec<Shard> {
        self.0.clone()
    }
}

#[test]
fn few_large_shards_stand_for_a_dataset() {
    // A shard is read whole.
    let shards = |bytes| Shards(vec![Shard { rows: 70, bytes }; 20]);
    assert_eq!(sample_rows(&shards(1 << 20)).len(), 16 * 64);
    assert_eq!(sample_rows(&shards(100_000_000)), (0..64).chain(700..764).collect::<Vec<_>>());
    assert_eq!(sample_rows(&shards(1 << 40)).len(), 2 * 64);
}

#[test]
fn the_content_of_a_file_is_known_by_its_footer() {
    let folder = tempfile::tempdir().unwrap();
    let content = |name: &str, length: usize, last: &str| {
        let path = folder.path().join(name);
        let text = |row| Some(if row == 9 { last.to_owned() } else { format!("picture {row}") });
        write(&path, &[10], |row| bytes(row, length), text);
        open(&path, None).content().unwrap()
    };
    let first = content("a.parquet", 30, "last");
    assert_eq!(content("b.parquet", 30, "last"), first);
    assert_ne!(content("c.parquet", 31, "last"), first);
    assert_ne!(content("d.parquet", 30, "lass"), first);
}

#[test]
fn datasets_one_after_another_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let part = |name: &str, first: usize, rows: usize| -> Arc<dyn CaptionSource> {
        let path = folder.path().join(name);
        write(
            &path,
            &[rows],
            |row| bytes(first + row, 9),
            move |row| Some(format!("picture {}", first + row)),
        );
        Arc::new(open(&path, None))
    };
    let parts = [part("a.parquet", 0, 3), part("b.parquet", 3, 1), part("c.parquet", 4, 2)];
    let all = Concat::new(parts.to_vec());
    assert_eq!(all.len(), 6);
    for row in 0..6 {
        assert_eq!(all.caption(row).unwrap(), format!("picture {row}"));
        assert_eq!(all.fingerprint(row).unwrap(), xxhash(&bytes(row, 9)));
    }
    assert!(matches!(all.caption(6), Err(Error::RowOutOfRange { row: 6, len: 6, .. })));
    let rows: Vec<usize> = all.shards().iter().map(|shard: &Shard| shard.rows).collect();
    assert_eq!(rows, [3, 1, 2]);
    assert_ne!(all.content(), Concat::new(parts.iter().rev().cloned().collect()).content());
}

#[test]
fn some_rows_are_inspected_under_their_own_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("few.parquet");
    write(&path, &[40], |row| bytes(row, 9), |row| Some(format!("picture {row}")));
    let source: Arc<dyn CaptionSource> = Arc::new(open(&path, None));
    let found = Inspection::of_rows(source, [3, 17, 39], Default::default(), 2, |_| {}).unwrap();
    assert_eq!(found.pictures, [None; 3]);
    assert_eq!(found.bad.iter().map(|bad| bad.row).collect::<Vec<_>>(), [3, 17, 39]);
}
