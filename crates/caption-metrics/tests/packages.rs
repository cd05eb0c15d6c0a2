//! Scores against pycocoevalcap, sacreBLEU and jiwer; `fixtures/make_scores.py` describes the fixtures.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caption_metrics::{cider, error_rate, lower_is_better, ptb, sacrebleu, score};
use serde_json::Value;

/// Greatest difference of any score, of corpora and of single captions.
const BOUND: f64 = 1e-6;

fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Captions and their references.
fn pairs(corpus: &Value) -> (Vec<String>, Vec<Vec<String>>) {
    let strings = |pair: &Value| -> Vec<String> {
        pair.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let pairs = corpus["pairs"].as_array().unwrap().iter().map(strings);
    pairs.map(|pair| (pair[0].clone(), pair[1..].to_vec())).unzip()
}

fn assert_close(what: &str, ours: f64, golden: &Value) {
    let golden = golden.as_f64().unwrap();
    assert!((ours - golden).abs() <= BOUND, "{what}: {ours}, should be {golden}");
}

#[test]
fn a_thousand_pairs_score_as_in_the_packages() {
    let golden = fixture("scores.json");
    let mut scored = 0;
    for (number, corpus) in golden["corpora"].as_array().unwrap().iter().enumerate() {
        let (candidates, references) = pairs(corpus);
        let scores = score(&candidates, &references).unwrap();
        let values = corpus["values"].as_object().unwrap();
        assert_eq!(values.len(), 9);
        for (key, value) in values {
            assert_close(&format!("corpus {number}, {key}"), scores.values[key.as_str()], value);
        }
        assert_eq!(sacrebleu::signature(&references), corpus["signature"].as_str().unwrap());
        let words: Vec<_> = candidates.iter().map(|caption| ptb::tokenize(caption)).collect();
        let reference_words: Vec<Vec<_>> =
            references.iter().map(|all| all.iter().map(|one| ptb::tokenize(one)).collect()).collect();
        let bleu = caption_metrics::bleu::bleu(&words, &reference_words).unwrap();
        for (i, candidate) in candidates.iter().enumerate() {
            let what = format!("corpus {number}, caption {i} `{candidate}`");
            assert_close(&what, bleu.each[i][3], &corpus["each_bleu_4"][i]);
            assert_close(&what, scores.rouge_l[i], &corpus["each_rouge_l"][i]);
            assert_close(&what, scores.cider_d[i], &corpus["each_cider_d"][i]);
            let wer = error_rate::wer([(references[i][0].as_str(), candidate.as_str())]).unwrap();
            assert_close(&what, wer, &corpus["each_wer"][i]);
            scored += 1;
        }
    }
    assert!(scored >= 1000, "{scored}");
}

/// The tokenizer is not a port of the original. These texts consist of difficulties only.
#[test]
fn words_are_those_of_the_treebank_tokenizer() {
    let golden = fixture("words.json");
    let texts = golden.as_array().unwrap();
    let mut different = Vec::new();
    for text in texts {
        let ours = ptb::tokenize(text[0].as_str().unwrap());
        let theirs: Vec<&str> = text[1].as_str().unwrap().split_whitespace().collect();
        if ours != theirs {
            different.push(format!("{}\n  {}\n  {}", text[0], ours.join(" "), theirs.join(" ")));
        }
    }
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), texts.len(), different.join("\n"));
}

#[test]
fn cider_of_one_picture_is_0_and_few_pictures_give_a_warning() {
    let scores = score(&["a red bird"], &[vec!["a red bird"]]).unwrap();
    assert_eq!(scores.values["cider_d"], 0.0);
    assert!(scores.warnings[0].to_string().contains("1 pictures"), "{}", scores.warnings[0]);
    let (many, references): (Vec<_>, Vec<_>) =
        (0..cider::FEW_PICTURES).map(|i| (format!("bird {i}"), vec![format!("bird {i}")])).unzip();
    let scores = score(&many, &references).unwrap();
    assert_eq!(scores.warnings, []);
    assert!((scores.values["bleu_1"] - 1.0).abs() <= BOUND, "{}", scores.values["bleu_1"]);
}

#[test]
fn bleu_4_of_three_words_comes_from_the_terms_that_prevent_divisions_by_zero() {
    let words: Vec<String> = ["a", "red", "bird"].map(str::to_owned).into();
    let bleu = caption_metrics::bleu::bleu(std::slice::from_ref(&words), &[vec![words.clone()]]).unwrap();
    assert!((bleu.each[0][2] - 1.0).abs() <= BOUND && (bleu.each[0][3] - 0.0316).abs() <= 1e-4, "{bleu:?}");
}

#[test]
fn lower_is_better_for_error_rates_repetition_and_the_loss() {
    let references: Vec<_> = (0..2).map(|i| vec![format!("picture {i}")]).collect();
    let scores = score(&["a bird", "a bird"], &references).unwrap();
    let lower: Vec<_> = scores.values.keys().copied().filter(|key| lower_is_better(key)).collect();
    assert_eq!(lower, ["cer", "exact_repeats", "repeated_ngrams", "wer"]);
    assert!(lower_is_better("test_loss") && lower_is_better("perplexity"));
}

#[test]
fn one_caption_for_all_pictures_and_repeated_words_give_warnings() {
    let references: Vec<_> = (0..60).map(|i| vec![format!("picture {i}")]).collect();
    let same = score(&vec!["a bird bird"; 60], &references).unwrap();
    let words: Vec<_> = same.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        ["60 of 60 pictures get the same caption: `a bird bird`", "100 % of the captions repeat words"]
    );
}

#[test]
fn lists_of_different_lengths_and_missing_references_are_refused() {
    let refusal = |candidates: &[&str], references: &[Vec<&str>]| {
        score(candidates, references).unwrap_err().to_string()
    };
    assert!(refusal(&["a"], &[]).contains("1 candidates for 0 pictures"));
    assert!(refusal(&["a", "b"], &[vec!["a"], vec![]]).contains("picture 1 (from 0)"));
    assert!(refusal(&[], &[]).contains("no caption"));
}
