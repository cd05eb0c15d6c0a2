//! Rows with several captions, and rows with prompts: their token ids and labels. The expected ids are from
//! transformers' tokenizer (fixtures/make_prompts.py).

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use candle_core::Device;
use std::sync::Arc;

use caption_data::{
    CaptionBatch, CaptionSource, CaptionTokenizer, Error, IGNORE_INDEX, Padding, Result, RgbImage,
    TokenizedCaptions,
};
use common::{fixture, json, numbers};

/// Rows with the given captions and prompts.
struct Rows(Vec<(Option<&'static str>, Vec<String>)>);

impl CaptionSource for Rows {
    fn name(&self) -> String {
        "rows".to_owned()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn caption(&self, row: usize) -> Result<String> {
        Ok(self.0[row].1[0].clone())
    }

    fn captions(&self, row: usize) -> Result<Vec<String>> {
        Ok(self.0[row].1.clone())
    }

    fn prompt(&self, row: usize) -> Result<Option<String>> {
        Ok(self.0[row].0.map(str::to_owned))
    }

    fn image(&self, _row: usize) -> Result<RgbImage> {
        Ok(RgbImage::new(1, 1))
    }
}

fn rows(rows: &[(Option<&'static str>, &[&str])]) -> Rows {
    let row = |(prompt, captions): &(Option<&'static str>, &[&str])| {
        (*prompt, captions.iter().map(|caption| (*caption).to_owned()).collect())
    };
    Rows(rows.iter().map(row).collect())
}

fn tokenizer() -> CaptionTokenizer {
    CaptionTokenizer::from_pretrained(fixture("tokenizer")).unwrap()
}

#[test]
fn evaluation_uses_all_captions_of_a_row_and_training_draws_one() {
    let source =
        rows(&[(None, &["a red bird", "a bird"]), (None, &["a cat"]), (None, &["one", "two", "three"])]);
    let captions = TokenizedCaptions::new(&source, &tokenizer()).unwrap();
    assert_eq!([0, 1, 2].map(|row| captions.references(row).unwrap()), [2, 1, 3]);
    assert!(matches!(captions.references(3), Err(Error::RowOutOfRange { .. })));
    let all = captions.all(&[2, 0]).unwrap();
    assert_eq!(all, [(2, 0), (2, 1), (2, 2), (0, 0), (0, 1)]);
    let batch = captions.batch_of(&all, Padding::Longest).unwrap();
    assert_eq!(batch.rows(), [2, 2, 2, 0, 0]);
    assert_eq!(batch.ids()[4], tokenizer().encode("a bird").unwrap());
    assert_eq!(captions.batch(&[2, 0], Padding::Longest).unwrap().ids()[1], batch.ids()[3]);
    assert!(matches!(captions.batch_of(&[(1, 1)], Padding::Longest), Err(Error::RowOutOfRange { .. })));
}

#[test]
fn drawn_captions_depend_on_seed_epoch_and_row_and_are_uniform() {
    let five: Vec<&str> = vec!["a", "b", "c", "d", "e"];
    let source = rows(&vec![(None, five.as_slice()); 200]);
    let captions = TokenizedCaptions::new(&source, &tokenizer()).unwrap();
    let mut counts = [0; 5];
    for epoch in 0..50 {
        for row in 0..200 {
            counts[captions.drawn(row, 42, epoch).unwrap()] += 1;
        }
    }
    // 10,000 draws: the bound is five standard deviations of a fair draw.
    assert!(counts.iter().all(|count: &i32| (count - 2000).abs() < 200), "{counts:?}");
    // These values must never change: a resumed run draws the same captions as the interrupted one, in later
    // versions too.
    assert_eq!([0, 1, 2, 3, 4, 5].map(|epoch| captions.drawn(3, 42, epoch).unwrap()), DRAWN);
    let single = TokenizedCaptions::new(&rows(&[(None, &["a"])]), &tokenizer()).unwrap();
    assert!((0..100).all(|epoch| single.drawn(0, 42, epoch).unwrap() == 0));
}

/// The captions drawn in the first epochs.
const DRAWN: [usize; 6] = [0, 0, 2, 2, 2, 0];

#[test]
fn a_prompt_precedes_its_caption_and_is_not_a_target() {
    let expected = json("prompts.json");
    for case in expected.as_array().unwrap() {
        let text = |key: &str| -> &'static str { case[key].as_str().unwrap().to_owned().leak() };
        let source = rows(&[(Some(text("question")), &[text("answer")])]);
        let captions = TokenizedCaptions::new(&source, &tokenizer()).unwrap();
        assert_eq!(captions.prompt(0).unwrap(), Some(numbers::<u32>(&case["prompt_ids"])));
        let batch = captions.batch(&[0], Padding::Longest).unwrap();
        assert_eq!(batch.ids()[0], numbers::<u32>(&case["input_ids"]));
        let labels: Vec<i64> =
            case["labels"].as_array().unwrap().iter().map(|label| label.as_i64().unwrap()).collect();
        assert_eq!(batch.labels(&Device::Cpu).unwrap().to_vec2::<i64>().unwrap(), [labels.as_slice()]);
        assert_eq!(batch.target_tokens(), labels.iter().filter(|label| **label != IGNORE_INDEX).count());
    }
}

#[test]
fn batches_of_prompts_are_merged_with_their_prompts() {
    let batch = |ids: Vec<u32>, prompt| {
        let batch = CaptionBatch::new(vec![0], vec![ids], 9, Padding::Longest).unwrap();
        batch.with_prompts(vec![prompt]).unwrap()
    };
    let both = CaptionBatch::concat([&batch(vec![1, 5, 2], 0), &batch(vec![1, 6, 7, 2], 2)]).unwrap();
    let ignored = IGNORE_INDEX;
    assert_eq!(
        both.labels(&Device::Cpu).unwrap().to_vec2::<i64>().unwrap(),
        [[1, 5, 2, ignored], [ignored, ignored, 7, 2]]
    );
    assert_eq!(both.target_tokens(), 2 + 2);
    let short = CaptionBatch::new(vec![0], vec![vec![1, 2]], 9, Padding::Longest).unwrap();
    assert!(matches!(
        short.clone().with_prompts(vec![3]),
        Err(Error::PromptTooLong { tokens: 3, caption: 2 })
    ));
    assert!(matches!(short.with_prompts(vec![]), Err(Error::BatchLengths { .. })));
}

#[test]
fn truncated_and_unknown_captions_are_counted() {
    let long: &'static str = "a red bird on a tree ".repeat(3).leak();
    let tokenizer = tokenizer().limited_to(8).unwrap();
    let source = rows(&[
        (None, &[long, "a bird"]),
        (None, &["🔥🔥"]),
        (None, &["🔥🔥 a bird"]),
        (None, &["\u{200b}"]),
    ]);
    let captions = TokenizedCaptions::new(&source, &tokenizer).unwrap();
    let cuts = captions.cuts();
    assert_eq!(
        (cuts.captions, cuts.cut_captions, cuts.unknown_captions, cuts.max_tokens),
        (5, 1, 2, Some(8))
    );
    let ids = captions.ids(0).unwrap();
    assert_eq!((ids.len(), ids.last()), (8, Some(&tokenizer.sep_id())));
    assert_eq!(captions.longest(&[0, 1]), 8);
}

#[test]
fn a_prompt_without_room_for_its_caption_is_cut_and_counted() {
    let question: &'static str = "a red bird on a tree ".repeat(3).leak();
    let tokenizer = tokenizer().limited_to(8).unwrap();
    let source = rows(&[(Some(question), &["a cat"]), (Some("a bird"), &["a cat"])]);
    let captions = TokenizedCaptions::new(&source, &tokenizer).unwrap();
    let cuts = captions.cuts();
    assert_eq!((cuts.cut_captions, cuts.cut_prompts), (0, 1));
    let batch = captions.batch(&[0], Padding::Longest).unwrap();
    let answer = &tokenizer.encode("a cat").unwrap()[1..];
    assert!(batch.ids()[0].ends_with(answer), "{:?}", batch.ids());
    assert_eq!((batch.seq_len(), batch.target_tokens()), (8, answer.len()));
    assert_eq!(captions.prompt(0).unwrap().unwrap().len(), 7);
}

#[test]
fn captions_on_demand_are_those_that_are_kept() {
    let long: &'static str = "a red bird on a tree ".repeat(3).leak();
    let tokenizer = tokenizer().limited_to(8).unwrap();
    let with_prompts = [(Some(long), &["a cat", "a dog"][..]), (Some("a bird"), &["a cat"])];
    let without = [(None, &["a red bird", long][..]), (None, &["a cat"])];
    for of in [with_prompts, without] {
        let source = Arc::new(rows(&of));
        let kept = TokenizedCaptions::new(&source, &tokenizer).unwrap();
        let read = TokenizedCaptions::on_demand(source, tokenizer.clone(), &[0, 1]).unwrap();
        assert_eq!((read.len(), read.cuts(), read.longest(&[])), (2, kept.cuts(), kept.longest(&[0, 1])));
        let all = kept.all(&[1, 0]).unwrap();
        assert_eq!(read.all(&[1, 0]).unwrap(), all);
        let batch = |captions: &TokenizedCaptions| captions.batch_of(&all, Padding::Longest).unwrap();
        assert_eq!(batch(&read), batch(&kept));
        for row in 0..2 {
            assert_eq!(read.prompt(row).unwrap(), kept.prompt(row).unwrap());
            for epoch in 0..9 {
                assert_eq!(read.drawn(row, 42, epoch).unwrap(), kept.drawn(row, 42, epoch).unwrap());
            }
        }
        assert!(read.batch_of(&[(1, 1)], Padding::Longest).is_err());
    }
}
