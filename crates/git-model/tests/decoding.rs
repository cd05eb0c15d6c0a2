//! Decoding with cached keys and values, step by step.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{IndexOp, Tensor};
use common::models::{list, logits, model};
use git_model::{CaptionDecoder, CaptionModel as _, SpeculativeDecoder, Step};
use train_ops::{ForwardContext, sample_key};

/// A prompt, then sequences that fork, change order and end, over two pictures.
#[test]
fn logits_from_cached_keys_and_values_are_those_of_the_whole_sequence() {
    for case in ["tiny", "video", "wide"] {
        let (golden, model) = model(case);
        let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
        let features = features.narrow(0, 0, 2).unwrap();
        let mut decoding = model.begin_decoding(&features, 2 * 3 + 4 * 5).unwrap();
        let mut sequences: Vec<(usize, Vec<u32>)> = vec![(0, vec![]), (1, vec![])];
        for (step, parents) in
            [&[0, 1][..], &[0, 0, 1, 1], &[1, 0, 3, 3], &[3, 2, 1, 0], &[2, 0]].iter().enumerate()
        {
            decoding.reorder(parents).unwrap();
            sequences = parents.iter().map(|parent| sequences[*parent].clone()).collect();
            let new = if step == 0 { 3 } else { 1 };
            for (row, (_, ids)) in sequences.iter_mut().enumerate() {
                ids.extend(
                    (0..new).map(|token| sample_key(9, step as u64, (3 * row + token) as u64) as u32 % 100),
                );
            }
            let newest: Vec<&[u32]> = sequences.iter().map(|(_, ids)| &ids[ids.len() - new..]).collect();
            let cached = decoding.append(&newest.concat()).unwrap();
            let whole: Vec<&[u32]> = sequences.iter().map(|(_, ids)| ids.as_slice()).collect();
            let whole = Tensor::new(whole.concat(), features.device()).unwrap();
            let length = sequences[0].1.len();
            let pictures: Vec<u32> = sequences.iter().map(|(picture, _)| *picture as u32).collect();
            let pictures = Tensor::new(pictures, features.device()).unwrap();
            let features = features.index_select(&pictures, 0).unwrap();
            let whole = logits(&model, &features, &whole.reshape((sequences.len(), length)).unwrap());
            let whole = whole.i((.., length - 1)).unwrap();
            let largest = list(&whole).iter().fold(0f32, |m, x| m.max(x.abs()));
            for (cached, whole) in cached.iter().zip(list(&whole)) {
                assert!(
                    (cached - whole).abs() <= 1e-5 * largest,
                    "{case}, step {step}: {cached}, not {whole}"
                );
            }
        }
        let error = decoding.reorder(&[0, 2]).unwrap_err().to_string();
        assert_eq!(error, "sequence 2 (from 0) does not exist: 2 sequences are live");
        for tokens in [&[][..], &[5], &[5, 6, 7]] {
            let error = decoding.append(tokens).unwrap_err().to_string();
            assert!(error.contains("input_ids: expected shape (2, new tokens)"), "{tokens:?}: {error}");
        }
    }
}

#[test]
fn steps_and_tokens_that_do_not_fit_a_decoding_are_errors() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let one = features.narrow(0, 0, 1).unwrap();
    let mut decoding = model.begin_decoding(&one, 2).unwrap();
    assert!(decoding.append(&[101, 7, 8]).is_err(), "more tokens than cache slots");
    assert!(decoding.append(&[101, 9999]).is_err(), "a token outside the vocabulary");
    decoding.append(&[101]).unwrap();
    for (parents, tokens) in
        [(vec![0], vec![5, 6]), (vec![0, 0], vec![5]), (vec![1], vec![5]), (vec![], vec![])]
    {
        let step = Step { parents, tokens };
        assert!(decoding.verify(std::slice::from_ref(&step)).is_err(), "{step:?}");
        assert!(decoding.draft_logits(std::slice::from_ref(&step)).is_err(), "{step:?}");
    }
    assert_eq!(
        decoding.append(&[5]).unwrap().len(),
        model.config().vocab_size,
        "refused steps change nothing"
    );
    let too_long = vec![5; model.config().max_position_embeddings + 1];
    let error = model.begin_decoding(&one, too_long.len()).unwrap().append(&too_long).unwrap_err();
    assert!(matches!(error, git_model::Error::TooLong { .. }), "{error}");
}

#[test]
fn steps_are_accepted_only_after_they_were_verified() {
    let (golden, model) = model("tiny");
    let features = model.encode_images(&golden.pixel_values(), &ForwardContext::inference()).unwrap();
    let mut decoding = model.begin_decoding(&features.narrow(0, 0, 1).unwrap(), 8).unwrap();
    decoding.append(&[101, 7]).unwrap();
    let steps = [5, 6, 8].map(|token| Step { parents: vec![0], tokens: vec![token] });
    for accepted in [0, 4] {
        assert_eq!(decoding.verify(&steps).unwrap().len(), 3 * model.config().vocab_size);
        let error = decoding.accept(accepted).unwrap_err().to_string();
        let expected = format!("{accepted} steps cannot be accepted: 3 were verified");
        assert!(error.starts_with(&expected), "{error}");
    }
    // The draft, here the model itself, and the verification of two steps leave the logits of plain decoding.
    let drafted = decoding.draft_logits(&steps[..2]).unwrap();
    let verified = decoding.verify(&steps).unwrap();
    decoding.accept(2).unwrap();
    let after_two = &verified[model.config().vocab_size..][..model.config().vocab_size];
    assert_eq!(drafted, after_two);
    let mut plain = model.begin_decoding(&features.narrow(0, 0, 1).unwrap(), 8).unwrap();
    plain.append(&[101, 7]).unwrap();
    plain.append(&[5]).unwrap();
    assert_eq!(plain.append(&[6]).unwrap(), after_two);
    assert_eq!(decoding.append(&[9]).unwrap(), plain.append(&[9]).unwrap());
}
