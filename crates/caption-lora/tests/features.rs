//! The feature cache: the same bits in memory and in files, nothing encoded twice, and damaged entries
//! detected.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use candle_core::{DType, Device, Tensor};
use caption_lora::features::{CachePlace, FeatureStore, Layout, PassFeatures};
use proptest::prelude::*;

const LAYOUT: Layout = Layout { tokens: 3, width: 5, dtype: DType::F32 };
const ENCODER: u128 = 0xabcdef;
/// More pictures than fit into one feature file.
const MANY: usize = 300;

fn keep(memory: usize, between_runs: Option<&Path>, scratch: &Path) -> CachePlace {
    let between_runs = between_runs.map(|dir| (dir.to_owned(), ENCODER));
    CachePlace { memory, between_runs, scratch: scratch.to_owned() }
}

/// Rows `0..count`, each with a picture of its own.
fn rows(count: usize) -> Vec<(usize, u128)> {
    (0..count).map(|row| (row, 1_000_000_007 * row as u128 + 7)).collect()
}

/// Test features of a row's picture: numbers that use all of their bits.
fn features(row: usize) -> Vec<f32> {
    (0..15).map(|i| (row * 15 + i + 1) as f32 / 7.3).collect()
}

/// A store of the features of `rows`, encoded in batches of four, and the rows that were encoded.
fn filled(rows: &[(usize, u128)], layout: Layout, keep: &CachePlace) -> Result<(FeatureStore, Vec<usize>)> {
    let asked = RefCell::new(Vec::new());
    let store = FeatureStore::fill(rows, layout, &Device::Cpu, keep, |rows| {
        asked.borrow_mut().extend_from_slice(&rows);
        let batches: Vec<Vec<usize>> = rows.chunks(4).map(<[usize]>::to_vec).collect();
        Ok(batches.into_iter().map(|rows| {
            let values: Vec<f32> = rows.iter().flat_map(|row| features(*row)).collect();
            Ok(Tensor::from_vec(values, (rows.len(), 3, 5), &Device::Cpu)?)
        }))
    })?;
    let asked = asked.into_inner();
    assert_eq!(store.encoded(), asked.len());
    Ok((store, asked))
}

fn bits(store: &FeatureStore, rows: &[usize]) -> Vec<u32> {
    let values = store.batch(rows).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = names(folder).into_iter().map(|name| folder.join(name)).collect();
    paths.sort();
    paths
}

#[test]
fn memory_a_file_and_an_earlier_run_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, scratch) = (folder.path().join("a/cache"), folder.path().join("scratch"));
    for (number, dtype) in [DType::F32, DType::BF16].into_iter().enumerate() {
        let layout = Layout { dtype, ..LAYOUT };
        let cache = cache.join(number.to_string());
        let (rows, all) = (rows(MANY), (0..MANY).collect::<Vec<_>>());
        let fits = MANY * layout.bytes();
        let stores = [
            ("in memory", fits, None, MANY),
            ("in files", fits - 1, None, MANY),
            ("in memory", fits, Some(&cache), MANY),
            ("in memory", fits, Some(&cache), 0),
            ("in files", fits - 1, Some(&cache), 0),
        ];
        let stores = stores.map(|(place, memory, cache, encoded)| {
            let keep = keep(memory, cache.map(PathBuf::as_path), &scratch);
            let (store, asked) = filled(&rows, layout, &keep).unwrap();
            assert_eq!(asked, all[..encoded]);
            assert!(store.to_string().contains(place), "{store}");
            assert_eq!(store.bytes(), fits);
            store
        });
        // Features rounded once, to the layout's type.
        let expected: Vec<f32> = all.iter().flat_map(|row| features(*row)).collect();
        let expected = Tensor::new(expected, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let expected = expected.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<u32> = expected.into_iter().map(f32::to_bits).collect();
        for store in &stores {
            assert!(bits(store, &all) == expected, "{store}");
            assert_eq!(
                bits(store, &[7, 2, 7]),
                [&expected[105..120], &expected[30..45], &expected[105..120]].concat()
            );
            let batch = store.batch(&[7, 2]).unwrap();
            let written = batch.ones_like().unwrap();
            store.write_batch(&[7, 2], &written).unwrap();
            let list = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(list(&written), list(&batch), "{store}");
            assert!(store.write_batch(&[7], &written).is_err());
            assert!(store.batch(&[MANY]).unwrap_err().to_string().contains("row 300 has no image features"));
            assert_eq!(store.damaged(), [""; 0]);
        }
        assert_eq!(names(&cache).len(), 2, "{:?}", names(&cache));
        drop(stores);
        assert_eq!(names(&scratch), [""; 0]);
    }
}

#[test]
fn only_uncached_pictures_are_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let keep = keep(usize::MAX, Some(folder.path()), folder.path());
    let encoded = |rows: &[(usize, u128)]| filled(rows, LAYOUT, &keep).unwrap();
    let mut rows = rows(20);
    assert_eq!(encoded(&rows[..12]).1.len(), 12);
    // New rows in order, the others in another order, and edited pictures.
    rows[..12].reverse();
    assert_eq!(encoded(&rows).1, (12..20).collect::<Vec<_>>());
    (rows[3].1, rows[15].1) = (1, 2);
    let (store, asked) = encoded(&rows);
    assert_eq!(asked, [rows[3].0, rows[15].0]);
    assert!(store.to_string().starts_with("2 encoded, 18 from "), "{store}");
    assert_eq!(encoded(&rows).1, [0; 0]);

    // Two rows with one picture, and a row that is requested twice.
    let shared = [(0, 70), (1, 71), (2, 70), (1, 71)];
    let (store, asked) = encoded(&shared);
    assert_eq!(asked, [0, 1]);
    assert_eq!(bits(&store, &[2]), bits(&store, &[0]));
}

/// Systems limit the files that a process has open, some of them to 256.
#[test]
#[cfg(target_os = "linux")]
fn few_of_many_feature_files_are_open_at_a_time() {
    const FILES: usize = 70;
    let folder = tempfile::tempdir().unwrap();
    let keep = keep(0, Some(folder.path()), folder.path());
    let rows = rows(256 * FILES);
    let open = || {
        let descriptors = paths(Path::new("/proc/self/fd")).into_iter();
        descriptors
            .filter_map(|path| fs::read_link(path).ok())
            .filter(|file| file.starts_with(folder.path()))
            .count()
    };
    let some: Vec<usize> = (0..rows.len()).step_by(100).collect();
    let (store, _) = filled(&rows, LAYOUT, &keep).unwrap();
    assert_eq!(names(folder.path()).len(), FILES);
    let expected: Vec<u32> = some.iter().flat_map(|row| features(*row)).map(f32::to_bits).collect();
    assert!(bits(&store, &some) == expected && (1..=64).contains(&open()), "{} files are open", open());
    drop(store);
    // Found by another run.
    let (store, asked) = filled(&rows, LAYOUT, &keep).unwrap();
    assert!(bits(&store, &some) == expected && asked.is_empty());
    assert!((1..=64).contains(&open()), "{} files are open", open());
}

#[test]
fn another_encoder_or_type_has_features_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(5);
    let encoded = |encoder: u128, layout: Layout| {
        let between_runs = Some((folder.path().to_owned(), encoder));
        let keep = CachePlace { between_runs, ..keep(usize::MAX, None, folder.path()) };
        let (store, asked) = filled(&rows, layout, &keep).unwrap();
        (asked.len(), store.damaged().len())
    };
    assert_eq!([encoded(1, LAYOUT), encoded(2, LAYOUT)], [(5, 0); 2]);
    assert_eq!([encoded(1, LAYOUT), encoded(2, LAYOUT)], [(0, 0); 2]);
    // The type is part of an encoder's fingerprint. Even with equal fingerprints, types would not be
    // confused.
    assert_eq!(encoded(1, Layout { dtype: DType::BF16, ..LAYOUT }), (5, 1));
}

#[test]
fn a_file_is_safetensors_that_other_programs_read() {
    let folder = tempfile::tempdir().unwrap();
    filled(&rows(4), LAYOUT, &keep(0, Some(folder.path()), folder.path())).unwrap();
    let tensors = candle_core::safetensors::load(&paths(folder.path())[0], &Device::Cpu).unwrap();
    assert_eq!(tensors["features"].dims(), [4, 3, 5]);
    assert_eq!(
        tensors["features"].get(2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        features(2)
    );
    assert_eq!((tensors["pictures"].dims(), tensors["checksums"].dims()), (&[4, 16][..], &[4, 8][..]));
}

/// Caches the features of ten pictures, damages the file with `damage`, and returns the messages of the next
/// run and the number of pictures that it encoded. Checks that its features are right, and that the run after
/// it encodes nothing.
fn after(damage: impl FnOnce(&Path)) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let keep = keep(0, Some(folder.path()), folder.path());
    let (rows, all) = (rows(10), (0..10).collect::<Vec<_>>());
    let expected = bits(&filled(&rows, LAYOUT, &keep).unwrap().0, &all);
    damage(&paths(folder.path())[0]);
    let (store, asked) = filled(&rows, LAYOUT, &keep).unwrap();
    assert_eq!(bits(&store, &all), expected);
    let (next, rest) = filled(&rows, LAYOUT, &keep).unwrap();
    assert_eq!(rest, [0; 0]);
    assert_eq!(bits(&next, &all), expected);
    (store.damaged().to_vec(), asked.len())
}

#[test]
fn a_damaged_file_is_reported_and_encoded_again() {
    let rewrite = |path: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    let header = |bytes: &[u8]| 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (reported, encoded) = after(|path| rewrite(path, &|bytes| bytes.truncate(bytes.len() / 2)));
    assert!(
        encoded == 10 && reported.len() == 1 && reported[0].contains("ends before the features of its 10"),
        "{reported:?}"
    );
    let (reported, encoded) = after(|path| rewrite(path, &|bytes| bytes.push(0)));
    assert!(encoded == 10 && reported[0].contains("bytes instead of"), "{reported:?}");
    let (reported, encoded) = after(|path| fs::write(path, "").unwrap());
    assert!(encoded == 10 && reported[0].contains("not a file of image features"), "{reported:?}");
    let (reported, encoded) = after(|path| fs::write(path, [255; 100]).unwrap());
    assert!(encoded == 10 && reported[0].contains("not a file of image features"), "{reported:?}");
    // One bit of one picture's features: those of the other nine stay valid.
    let (reported, encoded) = after(|path| {
        rewrite(path, &|bytes| {
            let at = header(bytes) + 4 * LAYOUT.bytes() + 11;
            bytes[at] ^= 1;
        })
    });
    assert!(
        encoded == 1 && reported.len() == 1 && reported[0].starts_with("1 of the image features in "),
        "{reported:?}"
    );
    let (reported, encoded) = after(|path| fs::remove_file(path).unwrap());
    assert!(encoded == 10 && reported.is_empty(), "{reported:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_is_believed(at in 0..2_000usize, bit in 0..8u32, cut in any::<bool>()) {
        let (_, encoded) = after(|path| {
            let mut bytes = fs::read(path).unwrap();
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            fs::write(path, bytes).unwrap();
        });
        prop_assert!(encoded >= 1);
    }
}

#[test]
fn files_of_others_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let keep = keep(0, Some(folder.path()), folder.path());
    let other = folder.path().join(format!("{ENCODER:032x}-and something else.safetensors"));
    fs::write(&other, "mine").unwrap();
    fs::write(folder.path().join("model.safetensors"), "mine").unwrap();
    let (store, asked) = filled(&rows(3), LAYOUT, &keep).unwrap();
    assert_eq!(asked.len(), 3);
    assert!(store.damaged().len() == 1 && store.damaged()[0].contains(other.to_str().unwrap()));
    assert_eq!(fs::read(&other).unwrap(), b"mine");
    assert_eq!(names(folder.path()).len(), 3);

    let error = filled(&rows(3), LAYOUT, &CachePlace { between_runs: Some((other.clone(), 1)), ..keep })
        .err()
        .unwrap();
    assert!(
        format!("{error:#}").contains(&format!("folder of image features {}", other.display())),
        "{error:#}"
    );
}

#[test]
fn a_failed_run_keeps_encoded_features_and_leaves_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, scratch) = (folder.path().join("cache"), folder.path().join("scratch"));
    let rows = rows(MANY);
    let failing = |keep: &CachePlace| {
        let result = FeatureStore::fill(&rows, LAYOUT, &Device::Cpu, keep, |rows| {
            let features = rows.into_iter().map(|row| match row {
                280 => Err(anyhow!("row 280 is broken")),
                _ => Ok(Tensor::from_vec(features(row), (1, 3, 5), &Device::Cpu)?),
            });
            Ok(features)
        });
        assert_eq!(result.err().unwrap().to_string(), "row 280 is broken");
    };
    failing(&keep(0, None, &scratch));
    assert_eq!(names(&scratch), [""; 0]);
    failing(&keep(0, Some(&cache), &scratch));
    assert_eq!(names(&cache).len(), 1, "{:?}", names(&cache));
    let (_, asked) = filled(&rows, LAYOUT, &keep(0, Some(&cache), &scratch)).unwrap();
    assert_eq!(asked, (256..MANY).collect::<Vec<_>>());

    // An encoder with wrong results.
    for (count, width, words) in [(2, 5, "fewer pictures"), (3, 4, "3 x 4 numbers came out, and 3 x 5")] {
        let fill = FeatureStore::fill(&rows[..3], LAYOUT, &Device::Cpu, &keep(0, None, &scratch), |_| {
            let batch = Tensor::zeros((count, 3, width), DType::F32, &Device::Cpu)?;
            Ok(std::iter::once(Ok(batch)))
        });
        let error = fill.err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_graphs_input_is_not_the_memory_of_the_cache_even_for_one_row() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = filled(&rows(3), LAYOUT, &keep(usize::MAX, None, folder.path())).unwrap();
    let before = bits(&store, &[0, 1, 2]);
    for rows in [&[1][..], &[0, 2]] {
        let input = PassFeatures::Stored(&store, rows).copied().unwrap();
        input.slice_set(&input.zeros_like().unwrap(), 0, 0).unwrap();
        assert_eq!(bits(&store, &[0, 1, 2]), before, "{rows:?}");
    }
}

#[test]
fn leftovers_of_killed_runs_are_removed_after_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = [".old.features.partial", ".new.features.partial"].map(|name| folder.path().join(name));
    for path in [&old, &new] {
        fs::write(path, "half of it").unwrap();
    }
    let yesterday = SystemTime::now() - Duration::from_secs(25 * 3600);
    File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
    filled(&rows(3), LAYOUT, &keep(0, Some(folder.path()), folder.path())).unwrap();
    assert_eq!((old.exists(), new.exists()), (false, true));
}

const FULL: &str = "FEATURES_ON_A_FULL_DISK";

/// The work of a child process; does nothing in the parent.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FULL).map(PathBuf::from) else { return };
    let cache = folder.join("cache");
    for (between_runs, report) in [(Some(cache.as_path()), "kept"), (None, "lent")] {
        let error =
            filled(&rows(MANY), LAYOUT, &keep(0, between_runs, &folder.join("scratch"))).err().unwrap();
        fs::write(folder.join(report), format!("{error:#}")).unwrap();
    }
}

#[test]
fn unneeded_files_are_reported_and_dated_by_last_use() {
    let folder = tempfile::tempdir().unwrap();
    let other =
        CachePlace { between_runs: Some((folder.path().to_owned(), 0x123)), ..keep(0, None, folder.path()) };
    let own = keep(0, Some(folder.path()), folder.path());
    // Features of another encoder, and two files of this encoder for different pictures; a foreign file is
    // not mentioned.
    let (store, _) = filled(&rows(10), LAYOUT, &other).unwrap();
    assert_eq!(store.unneeded(), None);
    let [theirs] = &paths(folder.path())[..] else { panic!("one file") };
    fs::write(folder.path().join("model.safetensors"), vec![0u8; 3_000_000]).unwrap();
    let everything = rows(2 * 10_000);
    let (first, second) = everything.split_at(10_000);
    filled(first, LAYOUT, &own).unwrap();
    let firsts: Vec<_> = paths(folder.path()).into_iter().filter(|path| path != theirs).collect();
    let long_ago = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
    for path in paths(folder.path()) {
        File::options().append(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let age = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap().elapsed().unwrap().as_secs();

    // 10,000 pictures of 60 bytes, with 16 for the fingerprint and 8 for the checksum, and forty headers.
    let note = filled(second, LAYOUT, &own).unwrap().0.unneeded().unwrap();
    assert!(note.contains("also has 0.9 MB") && note.contains("-mtime +30 -delete"), "{note}");
    assert!(firsts.iter().all(|path| age(path) > 30 * 24 * 3600));
    let (store, asked) = filled(first, LAYOUT, &own).unwrap();
    assert!(asked.is_empty() && store.unneeded().unwrap().contains("also has 0.9 MB"), "{store}");
    let stranger = folder.path().join("model.safetensors");
    for path in &firsts {
        assert_eq!(age(path) > 60, *path == stranger, "{}", path.display());
    }
    assert!(age(theirs) > 30 * 24 * 3600);
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_reported_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, scratch) = (folder.path().join("cache"), folder.path().join("scratch"));
    filled(&rows(20), LAYOUT, &keep(0, Some(&cache), &scratch)).unwrap();
    let before = names(&cache);
    // Limits files to 8 KiB, with an error instead of a signal beyond that.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" child --exact"])
        .arg(std::env::current_exe().unwrap())
        .env(FULL, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    for (report, dir) in [("kept", &cache), ("lent", &scratch)] {
        let error = fs::read_to_string(folder.path().join(report)).unwrap();
        for words in
            ["cannot write image features to", dir.to_str().unwrap(), "--feature-cache-dir", "too large"]
        {
            assert!(error.contains(words), "{error}");
        }
    }
    assert_eq!((names(&cache), names(&scratch)), (before, Vec::new()));
    let (_, asked) = filled(&rows(MANY), LAYOUT, &keep(0, Some(&cache), &scratch)).unwrap();
    assert_eq!(asked, (20..MANY).collect::<Vec<_>>());
}
