//! From rows to the model's inputs.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use candle_core::{DType, Device};
use caption_data::{
    CaptionBatch, CaptionSource, CaptionTokenizer, Error, IGNORE_INDEX, ImageProcessor, OnBadImage, Padding,
    PictureLoader, Prefetch, Result, RgbImage, SourceOptions, Subset, TokenizedCaptions, open,
};
use common::{fixture, message};
use proptest::prelude::*;

fn dataset(name: &str) -> Arc<dyn CaptionSource> {
    open(fixture("parquet").join(name), &SourceOptions::default()).unwrap()
}

fn tokenizer() -> CaptionTokenizer {
    CaptionTokenizer::from_pretrained(fixture("tokenizer")).unwrap()
}

// Captions

#[test]
fn labels_are_the_ids_with_padding_ignored_and_the_end_token_kept() {
    let captions = TokenizedCaptions::new(&dataset("hub.parquet"), &tokenizer()).unwrap();
    assert_eq!(captions.len(), 7);
    // "picture 3" and its end token.
    assert_eq!(captions.ids(3).unwrap(), [101, 3861, 1017, 102]);
    assert!(matches!(captions.ids(7), Err(Error::RowOutOfRange { row: 7, .. })));

    let ids = vec![vec![101, 102], vec![101, 5, 6, 102], vec![101, 0, 102]];
    let batch = CaptionBatch::new(vec![9, 4, 1], ids.clone(), 0, Padding::Longest).unwrap();
    assert_eq!((batch.batch_size(), batch.seq_len(), batch.target_tokens()), (3, 4, 1 + 3 + 2));
    assert_eq!((batch.rows(), batch.ids()), ([9, 4, 1].as_slice(), ids.as_slice()));
    let device = Device::Cpu;
    let input_ids = batch.input_ids(&device).unwrap();
    assert_eq!(input_ids.to_vec2::<u32>().unwrap(), [[101, 102, 0, 0], [101, 5, 6, 102], [101, 0, 102, 0]]);
    let labels = batch.labels(&device).unwrap();
    assert_eq!((labels.dtype(), IGNORE_INDEX), (DType::I64, -100));
    // A padding token inside a caption is an ordinary token.
    assert_eq!(
        labels.to_vec2::<i64>().unwrap(),
        [[101, 102, -100, -100], [101, 5, 6, 102], [101, 0, 102, -100]]
    );
    let mask = batch.attention_mask(&device).unwrap();
    assert_eq!(mask.to_vec2::<u8>().unwrap(), [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]);
}

#[test]
fn padding_to_a_maximum_pads_shorter_captions_and_refuses_longer_ones() {
    let ids = || vec![vec![101, 7, 102]];
    let batch = CaptionBatch::new(vec![0], ids(), 8, Padding::MaxLength(5)).unwrap();
    assert_eq!(batch.input_ids(&Device::Cpu).unwrap().to_vec2::<u32>().unwrap(), [[101, 7, 102, 8, 8]]);
    let error = CaptionBatch::new(vec![0], ids(), 8, Padding::MaxLength(2)).unwrap_err();
    assert!(error.to_string().contains("3 tokens") && error.to_string().contains("room for 2"), "{error}");
    assert!(
        CaptionBatch::new(vec![0, 1], ids(), 8, Padding::Longest).unwrap_err().to_string().contains("2 rows")
    );
}

#[test]
fn batches_are_concatenated_and_padded_to_the_longest_of_them() {
    let batch = |rows: &[usize], lengths: &[u32], padding| {
        let ids = lengths.iter().map(|length| (0..*length).collect()).collect();
        CaptionBatch::new(rows.to_vec(), ids, 0, padding).unwrap()
    };
    let parts = [batch(&[4, 1], &[3, 5], Padding::Longest), batch(&[2], &[2], Padding::Longest)];
    let whole = batch(&[4, 1, 2], &[3, 5, 2], Padding::Longest);
    assert_eq!(CaptionBatch::concat(&parts), Some(whole));
    let parts = [batch(&[4], &[3], Padding::MaxLength(9)), batch(&[2], &[2], Padding::MaxLength(9))];
    assert_eq!(CaptionBatch::concat(&parts), Some(batch(&[4, 2], &[3, 2], Padding::MaxLength(9))));
    assert_eq!(CaptionBatch::concat(&parts[..1]), Some(parts[0].clone()));
    assert_eq!(CaptionBatch::concat([]), None);
}

#[test]
fn a_blank_caption_or_an_unknown_row_is_named() {
    let error = TokenizedCaptions::new(&dataset("some_bad_rows.parquet"), &tokenizer()).unwrap_err();
    assert!(matches!(&error, Error::Row { row: 2, .. }), "{error}");
    let captions = TokenizedCaptions::new(&dataset("hub.parquet"), &tokenizer()).unwrap();
    assert!(captions.batch(&[0, 7], Padding::Longest).unwrap_err().to_string().contains("row 7"));
    assert_eq!(
        captions.batch(&[], Padding::Longest).unwrap().input_ids(&Device::Cpu).unwrap().dims(),
        [0, 0]
    );
}

proptest! {
    #[test]
    fn a_batch_keeps_every_caption(
        ids in prop::collection::vec(prop::collection::vec(0u32..30522, 0..20), 1..6),
        extra in 0usize..5,
    ) {
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0);
        let padding = if extra == 0 { Padding::Longest } else { Padding::MaxLength(longest + extra) };
        let batch = CaptionBatch::new((0..ids.len()).collect(), ids.clone(), 0, padding).unwrap();
        prop_assert_eq!(batch.seq_len(), longest + extra);
        let labels = batch.labels(&Device::Cpu).unwrap().to_vec2::<i64>().unwrap();
        for (labels, ids) in labels.iter().zip(&ids) {
            let (tokens, padding) = labels.split_at(ids.len());
            prop_assert!(tokens.iter().copied().eq(ids.iter().map(|id| i64::from(*id))));
            prop_assert!(padding.iter().all(|label| *label == IGNORE_INDEX));
        }
    }
}

// Pictures

#[test]
fn prefetched_pictures_are_the_rows_in_order() {
    let (source, processor) = (dataset("hub.parquet"), ImageProcessor::default());
    let loader = PictureLoader::new(Arc::clone(&source), processor.clone(), OnBadImage::Fail);
    let batches = vec![vec![6, 0], vec![3], vec![2, 2, 5], vec![1, 4]];
    let prefetched: Vec<_> = loader.prefetch(batches.clone(), 3, 2).unwrap().map(Result::unwrap).collect();
    assert_eq!(prefetched.iter().map(|batch| batch.rows()).collect::<Vec<_>>(), batches);
    for batch in prefetched {
        let images: Vec<RgbImage> = batch.rows().iter().map(|row| source.image(*row).unwrap()).collect();
        let (one, other) = (
            batch.pixel_values(&Device::Cpu).unwrap(),
            processor.pixel_values(&images, &Device::Cpu).unwrap(),
        );
        assert_eq!(one.dims(), [images.len(), 3, 224, 224]);
        assert_eq!(one.eq(&other).unwrap().min_all().unwrap().to_scalar::<u8>().unwrap(), 1);
    }
}

#[test]
fn bad_pictures_fail_their_batch_or_are_skipped_and_listed() {
    let batches = vec![vec![0, 1], vec![0], vec![2, 0, 4]];
    let loader = |rule| PictureLoader::new(dataset("some_bad_rows.parquet"), ImageProcessor::default(), rule);

    let results: Vec<_> = loader(OnBadImage::Fail).prefetch(batches.clone(), 2, 2).unwrap().collect();
    assert!(matches!(&results[0], Err(Error::Row { row: 1, .. })));
    assert_eq!(results[1].as_ref().unwrap().rows(), [0]);
    assert!(matches!(&results[2], Err(Error::Row { row: 2, .. })));

    let results: Vec<_> =
        loader(OnBadImage::Skip).prefetch(batches, 2, 2).unwrap().map(Result::unwrap).collect();
    assert!(results.iter().all(|batch| batch.rows() == [0]));
    let skipped: Vec<String> = results[2].skipped().iter().map(Error::to_string).collect();
    assert!(
        skipped.len() == 2 && skipped[0].contains("row 2 of ") && skipped[1].contains("row 4 of "),
        "{skipped:?}"
    );
    // A row that does not exist is a bug of the caller, not bad data.
    assert!(matches!(loader(OnBadImage::Skip).load(&[0, 99]), Err(Error::RowOutOfRange { row: 99, .. })));
}

#[test]
fn unprocessable_pictures_are_reported_or_skipped_like_unreadable_ones() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("preprocessor_config.json"), r#"{"do_center_crop": false}"#).unwrap();
    let processor = ImageProcessor::from_pretrained(folder.path()).unwrap();
    for (name, height) in [("a", 2), ("line", 60_000)] {
        fs::write(folder.path().join(format!("{name}.txt")), name).unwrap();
        RgbImage::new(1, height).save(folder.path().join(format!("{name}.png"))).unwrap();
    }
    let source = open(folder.path(), &SourceOptions::default()).unwrap();
    let loader = |rule| PictureLoader::new(Arc::clone(&source), processor.clone(), rule);

    let error = loader(OnBadImage::Fail).load(&[0, 1]).unwrap_err();
    let (text, row) = (message(&error), format!("row 1 of {} cannot be used: ", folder.path().display()));
    assert!(text.starts_with(&row) && text.contains("1 x 60000 pixels would become"), "{text}");
    let batch = loader(OnBadImage::Skip).load(&[0, 1]).unwrap();
    assert!(batch.rows() == [0] && matches!(batch.skipped(), [Error::Row { row: 1, .. }]));
}

#[test]
fn a_loader_serves_a_subset() {
    let subset = Arc::new(Subset::new(dataset("hub.parquet"), vec![6, 2]).unwrap());
    let batch = PictureLoader::new(subset, ImageProcessor::default(), OnBadImage::Fail).load(&[1]).unwrap();
    assert_eq!(batch.pixel_values(&Device::Cpu).unwrap().dims(), [1, 3, 224, 224]);
}

#[test]
fn a_fingerprint_depends_on_the_picture_and_its_processing() {
    let folder = tempfile::tempdir().unwrap();
    let loader = |name: &str, config: &str| {
        let path = folder.path().join("preprocessor_config.json");
        fs::write(&path, config).unwrap();
        PictureLoader::new(dataset(name), ImageProcessor::from_file(path).unwrap(), OnBadImage::Fail)
    };
    let of = |config: &str| loader("hub.parquet", config).fingerprint(3).unwrap();
    let clip = of("{}");
    assert_eq!(clip, of(r#"{"size": {"shortest_edge": 224}, "resample": 3, "_comment": "all defaults"}"#));
    assert_ne!(clip, loader("hub.parquet", "{}").fingerprint(2).unwrap());
    let mean = r#"{"image_mean": [0.48145466, 0.4578275, 0.40821074]}"#;
    let others = [r#"{"size": 225}"#, r#"{"crop_size": 223}"#, r#"{"resample": 2}"#, mean].map(of);
    for (i, other) in others.iter().enumerate() {
        assert!(*other != clip && !others[..i].contains(other), "configuration {i}");
    }
    assert!(matches!(loader("hub.parquet", "{}").fingerprint(99), Err(Error::RowOutOfRange { row: 99, .. })));
}

// Prefetching

#[test]
fn items_keep_their_order_however_long_each_takes() {
    let slow = |n: u64| {
        thread::sleep(Duration::from_millis((7 * n) % 5));
        Ok(n)
    };
    for (workers, queue) in [(1, 1), (1, 5), (4, 1), (4, 3), (3, 100), (0, 0)] {
        let items: Vec<u64> =
            Prefetch::new(0..40, workers, queue, slow).unwrap().map(Result::unwrap).collect();
        assert_eq!(items, (0..40).collect::<Vec<_>>(), "{workers} workers, queue of {queue}");
    }
    assert_eq!(Prefetch::new(Vec::<u64>::new(), 2, 2, slow).unwrap().count(), 0);
}

#[test]
fn no_more_than_the_queue_is_made_ahead() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let mut items = Prefetch::new(0..100, 4, 3, move |n: u64| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(n)
    })
    .unwrap();
    for taken in 0..10 {
        // Time for the workers to run too far ahead, if nothing stops them.
        thread::sleep(Duration::from_millis(5));
        assert!(
            made.load(Ordering::SeqCst) <= taken + 3,
            "{} made, {taken} taken",
            made.load(Ordering::SeqCst)
        );
        assert_eq!(items.next().unwrap().unwrap(), taken as u64);
    }
}

#[test]
fn workers_work_at_the_same_time() {
    // Each of the two waits for the other: with only one worker the test would never end.
    let both = Arc::new(Barrier::new(2));
    let items = Prefetch::new(0..2, 2, 2, move |n: u64| {
        both.wait();
        Ok(n)
    });
    assert_eq!(items.unwrap().map(Result::unwrap).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn an_error_or_a_panic_keeps_its_position_and_later_items_still_arrive() {
    let make = |n: usize| match n {
        2 => Err(Error::NoPicture),
        4 => panic!("a bug"),
        _ => Ok(n),
    };
    let items: Vec<_> = Prefetch::new(0..7, 1, 3, make).unwrap().collect();
    assert!(matches!(items[2], Err(Error::NoPicture)));
    assert!(matches!(items[4], Err(Error::WorkerPanicked)));
    let good: Vec<usize> = items.into_iter().flatten().collect();
    assert_eq!(good, [0, 1, 3, 5, 6]);
}

#[test]
fn dropping_the_iterator_stops_its_workers() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let mut items = Prefetch::new(0.., 2, 50, move |n: u64| {
        thread::sleep(Duration::from_millis(1));
        count.fetch_add(1, Ordering::SeqCst);
        Ok(n)
    })
    .unwrap();
    items.next().unwrap().unwrap();
    drop(items);
    // The threads were joined and have dropped the closure, and with it the counter.
    assert_eq!(Arc::strong_count(&made), 1);
    assert!(made.load(Ordering::SeqCst) < 50);
}
