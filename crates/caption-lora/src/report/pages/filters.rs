//! Template filters: numbers and words formatted for readers.

use std::collections::BTreeSet;

use serde::Serialize;

/// A result with four significant digits, at most four of them after the decimal point; a dash if it was not
/// measured.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(x) if !x.is_finite() => x.to_string(),
        Some(x) => {
            let digits = (3.0 - x.abs().log10().floor()).clamp(0.0, 4.0) as usize;
            format!("{x:.digits$}")
        }
    }
}

/// The relative change from `base` to `adapter` in words, such as `41.6 % lower`; empty if there is none.
pub(super) fn change(adapter: Option<f64>, base: Option<f64>) -> String {
    let (Some(adapter), Some(base)) = (adapter, base) else { return String::new() };
    // Unsmoothed scores are not exactly zero if nothing matches.
    let [adapter, base] = [adapter, base].map(|x| if x.abs() < 1e-9 { 0.0 } else { x });
    if adapter == base {
        return "unchanged".into();
    }
    let percent = 100.0 * (adapter - base) / base.abs();
    if !percent.is_finite() {
        return String::new();
    }
    match percent {
        p if p.abs() < 0.05 => "unchanged".into(),
        // Would be rounded to 100 %.
        p if p < -99.9 && p > -100.0 => "over 99.9 % lower".into(),
        p if p < 0.0 => format!("{:.1} % lower", -p),
        p if p < 300.0 => format!("{p:.1} % higher"),
        p => format!("{:.1} times as high", 1.0 + p / 100.0),
    }
}

/// The score of one caption, from 0 to 1.
pub(super) fn score(value: f64) -> String {
    format!("{value:.2}")
}

/// A word of a caption.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Word {
    text: String,
    /// Whether it is also in the reference.
    shared: bool,
}

/// Splits a caption into words and marks those that the reference has too, ignoring case and punctuation.
pub(super) fn words(caption: &str, reference: &str) -> Vec<Word> {
    let reference: BTreeSet<String> =
        reference.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect();
    let word = |text: &str| Word { text: text.into(), shared: reference.contains(&bare(text)) };
    caption.split_whitespace().map(word).collect()
}

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_four_significant_digits() {
        let shown = [1.70312, 0.0143, 54.12345, -123_456.7, 0.0, f64::NAN].map(|x| number(Some(x)));
        assert_eq!(shown, ["1.703", "0.0143", "54.12", "-123457", "0.0000", "NaN"]);
        assert_eq!(number(None), "–");
    }

    #[test]
    fn changes_are_relative_to_the_base_and_in_words() {
        assert_eq!(change(Some(1.5), Some(2.0)), "25.0 % lower");
        assert_eq!(change(Some(0.3), Some(0.2)), "50.0 % higher");
        assert_eq!(change(Some(5.0), Some(0.5)), "10.0 times as high");
        assert_eq!(change(Some(1.29), Some(5292.0)), "over 99.9 % lower");
        assert_eq!(change(Some(0.0), Some(2.0)), "100.0 % lower");
        assert_eq!(change(Some(2.0), Some(2.0)), "unchanged");
        assert_eq!(change(Some(0.0), Some(0.0)), "unchanged");
        assert_eq!(change(Some(3e-18), Some(2e-18)), "unchanged");
        assert_eq!(change(Some(2.0), Some(0.0)), "");
        assert_eq!(change(None, Some(0.0)), "");
    }

    #[test]
    fn shared_words_ignore_case_and_punctuation() {
        let shared: Vec<_> = words("A drawing, of birds -", "a Drawing of a bird")
            .into_iter()
            .map(|w| (w.text, w.shared))
            .collect();
        let expected = [("A", true), ("drawing,", true), ("of", true), ("birds", false), ("-", false)];
        assert_eq!(shared, expected.map(|(text, shared)| (text.to_owned(), shared)));
    }
}
