use std::collections::BTreeMap;
use std::fmt;

use crate::cider::FEW_PICTURES;
use crate::diversity::{Diversity, diversity};
use crate::error::Result;
use crate::{bleu, cider, error_rate, ptb, rouge, sacrebleu};

/// How each score is computed, by its key. The signature of `sacrebleu` is [`sacrebleu::signature`].
pub const SIGNATURES: [(&str, &str); 7] = [
    (
        "bleu_1..bleu_4",
        "pycocoevalcap 1.2, corpus, closest reference length, no smoothing|tok:ptb-like|case:lc",
    ),
    ("rouge_l", "pycocoevalcap 1.2, beta 1.2, mean of captions|tok:ptb-like|case:lc"),
    (
        "cider_d",
        "pycocoevalcap 1.2, n 1..4, sigma 6, scale 0..10, idf of these references|tok:ptb-like|case:lc",
    ),
    ("wer", "jiwer 4.0, corpus, first reference|case:mixed"),
    ("cer", "jiwer 4.0, corpus, first reference|case:mixed"),
    ("distinct_1, distinct_2", "different n-grams / n-grams of all captions|tok:ptb-like|case:lc"),
    (
        "mean_length, exact_repeats, repeated_ngrams",
        "words a caption; share of captions of an earlier picture; share with 3 words or 1 word at once twice|tok:ptb-like|case:lc",
    ),
];

/// Scores of one model's captions.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// By key: `bleu_1` to `bleu_4`, `rouge_l`, `cider_d`, `sacrebleu`, `wer`, `cer`, `distinct_1`, `distinct_2`,
    /// `mean_length`, `exact_repeats` and `repeated_ngrams`.
    pub values: BTreeMap<&'static str, f64>,
    /// CIDEr-D of each caption, for ranking captions.
    pub cider_d: Vec<f64>,
    /// ROUGE-L of each caption.
    pub rouge_l: Vec<f64>,
    /// Diversity of the captions.
    pub diversity: Diversity,
    /// Reasons why scores may be misleading.
    pub warnings: Vec<Warning>,
}

/// A reason why scores may be misleading. [`Display`](fmt::Display) gives a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// There are too few references to weight words by their rarity, as CIDEr-D does.
    FewPictures {
        /// Number of pictures.
        pictures: usize,
    },
    /// Many pictures share one caption.
    SameCaption {
        /// The caption's words.
        caption: String,
        /// Number of pictures that have it.
        pictures: usize,
        /// Number of pictures in all.
        of: usize,
    },
    /// Many captions repeat words.
    Repetition {
        /// Fraction of the captions, from 0 to 1.
        share: f64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewPictures { pictures } => write!(
                f,
                "CIDEr-D of {pictures} pictures is not meaningful: it learns from their references which words are rare; \
                 score {FEW_PICTURES} pictures or more"
            ),
            Self::SameCaption { caption, pictures, of } => {
                write!(f, "{pictures} of {of} pictures get the same caption: `{caption}`")
            }
            Self::Repetition { share } => {
                write!(f, "{:.0} % of the captions repeat words", 100.0 * share)
            }
        }
    }
}

/// Whether lower values are better for the result with this key: true for error rates, repetition, and `test_loss` and
/// `perplexity`, which are reported with the scores, and false for every other key.
pub fn lower_is_better(key: &str) -> bool {
    matches!(key, "wer" | "cer" | "exact_repeats" | "repeated_ngrams" | "test_loss" | "perplexity")
}

/// Scores `candidates`, one caption for each picture, against the references of each picture.
///
/// # Errors
/// If a caption has no references, or there are no captions.
pub fn score<S: AsRef<str>, R: AsRef<str>>(candidates: &[S], references: &[Vec<R>]) -> Result<Scores> {
    crate::error::check(candidates, references)?;
    let words: Vec<_> = candidates.iter().map(|caption| ptb::tokenize(caption.as_ref())).collect();
    let reference_words: Vec<Vec<_>> = references
        .iter()
        .map(|references| references.iter().map(|reference| ptb::tokenize(reference.as_ref())).collect())
        .collect();
    let pairs = || {
        references
            .iter()
            .zip(candidates)
            .map(|(references, caption)| (references[0].as_ref(), caption.as_ref()))
    };

    let [bleu_1, bleu_2, bleu_3, bleu_4] = bleu::bleu(&words, &reference_words)?.corpus;
    let rouge_l = rouge::rouge_l(&words, &reference_words)?;
    let cider_d = cider::cider_d(&words, &reference_words)?;
    let diversity = diversity(&words);
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let values = BTreeMap::from([
        ("bleu_1", bleu_1),
        ("bleu_2", bleu_2),
        ("bleu_3", bleu_3),
        ("bleu_4", bleu_4),
        ("rouge_l", mean(&rouge_l)),
        ("cider_d", mean(&cider_d)),
        ("sacrebleu", sacrebleu::sacrebleu(candidates, references)?),
        ("wer", error_rate::wer(pairs())?),
        ("cer", error_rate::cer(pairs())?),
        ("distinct_1", diversity.distinct_1),
        ("distinct_2", diversity.distinct_2),
        ("mean_length", diversity.mean_length),
        ("exact_repeats", diversity.exact_repeats),
        ("repeated_ngrams", diversity.repeated_ngrams),
    ]);
    let warnings = warnings(&diversity, candidates.len());
    Ok(Scores { values, cider_d, rouge_l, diversity, warnings })
}

fn warnings(diversity: &Diversity, of: usize) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if of < FEW_PICTURES {
        warnings.push(Warning::FewPictures { pictures: of });
    }
    if let Some((caption, pictures)) = &diversity.most_common
        && of >= 4
        && 4 * pictures > of
    {
        warnings.push(Warning::SameCaption { caption: caption.clone(), pictures: *pictures, of });
    }
    if diversity.repeated_ngrams > 0.1 {
        warnings.push(Warning::Repetition { share: diversity.repeated_ngrams });
    }
    warnings
}
