//! Changes to the scores of the next token, in the order in which transformers applies them.

use train_ops::log_sum_exp;

use super::GenerationConfig;

/// Applies repetition penalty, n-gram blocking, bad words and the minimum length to the `scores` of the token that
/// follows `sequence`, of which the first `prompt` tokens were given.
pub(crate) fn process(
    config: &GenerationConfig,
    eos: &[u32],
    sequence: &[u32],
    prompt: usize,
    scores: &mut [f32],
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
            scores[id as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Each token of the sequence, the prompt included, is penalised once.
fn penalise_repetition(sequence: &[u32], penalty: f32, scores: &mut [f32]) {
    let mut seen = sequence.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        let score = &mut scores[id as usize];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

/// Forbids every token that would complete an n-gram that the sequence already has.
fn forbid_ngrams(sequence: &[u32], n: usize, scores: &mut [f32]) {
    if sequence.len() < n {
        return;
    }
    let tail = &sequence[sequence.len() - (n - 1)..];
    for ngram in sequence.windows(n) {
        if ngram[..n - 1] == *tail {
            scores[ngram[n - 1] as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Forbids the last token of `word` where the sequence ends in the tokens before it. The end token alone cannot be
/// forbidden, or captions would not end.
fn forbid_word(eos: &[u32], sequence: &[u32], word: &[u32], scores: &mut [f32]) {
    let Some((last, before)) = word.split_last() else { return };
    let ends_captions = before.is_empty() && eos.contains(last);
    let counts = before.is_empty() || word.len() <= sequence.len();
    if counts && !ends_captions && sequence.ends_with(before) {
        scores[*last as usize] = f32::NEG_INFINITY;
    }
}

/// `log softmax`, in place.
pub(crate) fn log_softmax(scores: &mut [f32]) {
    let log_sum = log_sum_exp(scores);
    scores.iter_mut().for_each(|score| *score -= log_sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_penalised_once_a_token_whatever_its_sign() {
        let mut scores = [2.0, -2.0, 1.0];
        penalise_repetition(&[0, 1, 1, 0], 2.0, &mut scores);
        assert_eq!(scores, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn a_bad_word_is_forbidden_where_it_would_be_completed() {
        let forbidden = |sequence: &[u32], word: &[u32]| {
            let mut scores = [0.0; 5];
            forbid_word(&[4], sequence, word, &mut scores);
            scores.iter().position(|score| *score == f32::NEG_INFINITY)
        };
        assert_eq!(forbidden(&[0], &[3]), Some(3));
        assert_eq!(forbidden(&[0, 1, 2], &[1, 2, 3]), Some(3));
        assert_eq!(forbidden(&[0, 1, 1], &[1, 2, 3]), None);
        assert_eq!(forbidden(&[1], &[1, 3]), None, "as transformers: the word is longer than what was said");
        assert_eq!(forbidden(&[0], &[4]), None, "captions end");
    }

    #[test]
    fn a_token_that_completes_a_known_ngram_is_forbidden() {
        let mut scores = [0.0; 5];
        forbid_ngrams(&[1, 2, 3, 1, 2], 3, &mut scores);
        assert_eq!(scores, [0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0]);
        let mut scores = [0.0; 3];
        forbid_ngrams(&[2, 0], 1, &mut scores);
        assert_eq!(scores, [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], "1-grams: every token once");
    }
}
