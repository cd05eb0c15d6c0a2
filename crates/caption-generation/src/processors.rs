//! Logits processors: penalties and forbidden tokens, in the order in which transformers applies them.

use crate::config::GenerationConfig;
use crate::row::Row;

/// The largest number of tokens whose scores [`process`] may change, after a sequence of `length` tokens of
/// which `generated` are new.
pub(crate) fn most_changed(config: &GenerationConfig, eos: &[u32], length: usize, generated: usize) -> usize {
    let changes_sequence = config.repetition_penalty != 1.0 || config.no_repeat_ngram_size > 0;
    let of_sequence = if changes_sequence { length } else { 0 };
    let ends = if generated < config.min_new_tokens { eos.len() } else { 0 };
    of_sequence + config.bad_words.len() + ends
}

/// Applies repetition penalty, n-gram blocking, bad words and the minimum length to the `scores` of the token that
/// follows `sequence`, whose first `prompt` tokens are the prompt.
pub(crate) fn process(
    config: &GenerationConfig,
    eos: &[u32],
    sequence: &[u32],
    prompt: usize,
    scores: &mut Row<'_>,
) {
    if config.repetition_penalty != 1.0 {
        penalise_repetition(sequence, config.repetition_penalty, scores);
    }
    if config.no_repeat_ngram_size > 0 {
        forbid_ngrams(sequence, config.no_repeat_ngram_size, scores);
    }
    for word in &config.bad_words {
        forbid_word(eos, sequence, word, scores);
    }
    if sequence.len() - prompt < config.min_new_tokens {
        for &id in eos {
            scores.forbid(id);
        }
    }
}

/// Each token of the sequence, the prompt included, is penalised once.
fn penalise_repetition(sequence: &[u32], penalty: f32, scores: &mut Row<'_>) {
    let mut seen = sequence.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(score) = scores.get_mut(id) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// Forbids every token that would repeat an n-gram of the sequence.
fn forbid_ngrams(sequence: &[u32], n: usize, scores: &mut Row<'_>) {
    if sequence.len() < n {
        return;
    }
    let tail = &sequence[sequence.len() - (n - 1)..];
    for ngram in sequence.windows(n) {
        if ngram[..n - 1] == *tail {
            scores.forbid(ngram[n - 1]);
        }
    }
}

/// Forbids the last token of `word` if the sequence ends with the tokens before it. A `word` that is the end
/// token alone is ignored, because captions would not end otherwise.
fn forbid_word(eos: &[u32], sequence: &[u32], word: &[u32], scores: &mut Row<'_>) {
    let Some((last, before)) = word.split_last() else { return };
    let ends_captions = before.is_empty() && eos.contains(last);
    let applies = before.is_empty() || word.len() <= sequence.len();
    if applies && !ends_captions && sequence.ends_with(before) {
        scores.forbid(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_penalty_is_applied_once_for_each_token_by_the_sign_of_its_logit() {
        let mut scores = [2.0, -2.0, 1.0];
        penalise_repetition(&[0, 1, 1, 0], 2.0, &mut Row::All(&mut scores));
        assert_eq!(scores, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn the_last_token_of_a_bad_word_is_forbidden_after_the_tokens_before_it() {
        let forbidden = |sequence: &[u32], word: &[u32]| {
            let mut scores = [0.0; 5];
            forbid_word(&[4], sequence, word, &mut Row::All(&mut scores));
            scores.iter().position(|score| *score == f32::NEG_INFINITY)
        };
        assert_eq!(forbidden(&[0], &[3]), Some(3));
        assert_eq!(forbidden(&[0, 1, 2], &[1, 2, 3]), Some(3));
        assert_eq!(forbidden(&[0, 1, 1], &[1, 2, 3]), None);
        assert_eq!(
            forbidden(&[1], &[1, 3]),
            None,
            "as in transformers: the word is longer than the sequence"
        );
        assert_eq!(forbidden(&[0], &[4]), None, "captions end");
    }

    #[test]
    fn tokens_that_would_repeat_an_ngram_are_forbidden() {
        let mut scores = [0.0; 5];
        forbid_ngrams(&[1, 2, 3, 1, 2], 3, &mut Row::All(&mut scores));
        assert_eq!(scores, [0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0]);
        let mut scores = [0.0; 3];
        forbid_ngrams(&[2, 0], 1, &mut Row::All(&mut scores));
        assert_eq!(scores, [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], "1-grams: every token once");
    }
}
