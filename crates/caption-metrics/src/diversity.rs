//! Diversity of captions, which shows models that repeat themselves or ignore their pictures.

use std::collections::HashMap;

use crate::ngrams::counts;

/// Measures of how varied captions are. They do not depend on references.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diversity {
    /// Number of different words over the number of words, in all captions ([Li et al., 2016](https://aclanthology.org/N16-1014)).
    pub distinct_1: f64,
    /// Number of different pairs of neighbouring words over the number of pairs.
    pub distinct_2: f64,
    /// Mean number of words of a caption.
    pub mean_length: f64,
    /// Fraction of the captions that are equal to the caption of an earlier picture.
    pub exact_repeats: f64,
    /// Fraction of the captions with the same three words in a row twice, or with a word directly after itself.
    pub repeated_ngrams: f64,
    /// The most frequent caption, as its words, and its number of pictures; the first of several. `None` without captions.
    pub most_common: Option<(String, usize)>,
}

/// The diversity of captions, split into words. Fractions and means of no captions are 0.
pub fn diversity(captions: &[Vec<String>]) -> Diversity {
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let mut times: HashMap<&[String], usize> = HashMap::new();
    for caption in captions {
        *times.entry(caption).or_default() += 1;
    }
    let most = times.values().copied().max();
    let most_common = most.and_then(|most| {
        let caption = captions.iter().find(|caption| times[caption.as_slice()] == most)?;
        Some((caption.join(" "), most))
    });
    let repeats = captions.iter().filter(|caption| repeats(caption)).count();
    Diversity {
        distinct_1: distinct(captions, 1),
        distinct_2: distinct(captions, 2),
        mean_length: share(captions.iter().map(Vec::len).sum(), captions.len()),
        exact_repeats: share(captions.len() - times.len(), captions.len()),
        repeated_ngrams: share(repeats, captions.len()),
        most_common,
    }
}

fn distinct(captions: &[Vec<String>], n: usize) -> f64 {
    let mut all: HashMap<&[String], usize> = HashMap::new();
    for caption in captions {
        for (ngram, count) in counts(caption, n) {
            *all.entry(ngram).or_default() += count;
        }
    }
    let total: usize = all.values().sum();
    if total == 0 { 0.0 } else { all.len() as f64 / total as f64 }
}

fn repeats(caption: &[String]) -> bool {
    caption.windows(2).any(|pair| pair[0] == pair[1]) || counts(caption, 3).values().any(|count| *count > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(captions: &[&str]) -> Vec<Vec<String>> {
        captions.iter().map(|caption| caption.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn one_caption_for_all_pictures_has_low_diversity() {
        let same = diversity(&words(&["a red bird"; 4]));
        assert_eq!((same.exact_repeats, same.most_common), (0.75, Some(("a red bird".to_owned(), 4))));
        assert_eq!((same.distinct_1, same.distinct_2, same.mean_length), (0.25, 0.25, 3.0));
    }

    #[test]
    fn repeated_ngrams_are_three_words_twice_or_a_word_after_itself() {
        let captions = ["a red bird a red bird", "a bird bird", "the red the red", "a b a c a d", ""];
        assert_eq!(diversity(&words(&captions)).repeated_ngrams, 0.4);
    }

    #[test]
    fn no_captions_have_no_diversity() {
        assert_eq!(diversity(&[]), Diversity::default());
        let empty = diversity(&words(&["", ""]));
        assert_eq!((empty.distinct_1, empty.mean_length, empty.exact_repeats), (0.0, 0.0, 0.5));
    }
}
