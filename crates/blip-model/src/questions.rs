use candle_core::Tensor;
use caption_model::{ShiftedLabels, TextBatch, TextIds};

use crate::{Error, Result};

/// The special tokens of questions and answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuestionTokens {
    /// `[ENC]`, the first token of every question.
    pub(crate) question: u32,
    /// `[DEC]`, the first token of every answer.
    pub(crate) answer: u32,
    /// `[SEP]`, which ends both.
    pub(crate) end: u32,
}

impl QuestionTokens {
    /// The question encoder's input for a prompt, which begins with a start token: `[ENC] question [SEP]`.
    pub(crate) fn question_of(self, prompt: &[u32]) -> Vec<u32> {
        let words = prompt.get(1..).unwrap_or_default();
        [&[self.question], words, &[self.end]].concat()
    }
}

/// How texts are padded: to a multiple of a number of tokens, as far as the model has positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextLengths {
    pub(crate) multiple: usize,
    pub(crate) most: usize,
}

/// Separates rows `start question answer [SEP] padding` into questions `[ENC] question [SEP]` and answers `[DEC] answer [SEP]`. The
/// positions with labels are the answer: a row's question ends before its first label, and padding begins after its last.
pub(crate) fn question_batch(
    input_ids: &Tensor,
    labels: &[Vec<i64>],
    tokens: QuestionTokens,
    lengths: TextLengths,
) -> Result<TextBatch> {
    // Checks the shape of the labels.
    ShiftedLabels::new(labels, input_ids)?;
    let ids = input_ids.to_vec2::<u32>()?;
    let (mut questions, mut answers, mut answer_labels) = (Vec::new(), Vec::new(), Vec::new());
    for (row, (ids, labels)) in ids.iter().zip(labels).enumerate() {
        let first = labels.iter().position(|label| *label >= 0);
        let end = labels.iter().rposition(|label| *label >= 0).map_or(0, |last| last + 1);
        // A row without labels has no targets: its question has no effect.
        let first = first.unwrap_or(end);
        if end > 0 && first < 2 {
            return Err(Error::NoQuestion { row: Some(row) });
        }
        questions.push(tokens.question_of(&ids[..first]));
        answers.push([&[tokens.answer], &ids[first..end]].concat());
        answer_labels.push([&[-100], &labels[first..end]].concat());
    }
    let key_lengths: Vec<usize> = questions.iter().map(Vec::len).collect();
    // No token attends to padding, so any token can be used.
    let texts: Vec<TextIds> =
        [questions, answers].into_iter().map(|rows| padded(rows, tokens.end, lengths)).collect();
    let length = texts[1].length;
    answer_labels.iter_mut().for_each(|labels| labels.resize(length, -100));
    Ok(TextBatch { texts, lengths: key_lengths, labels: answer_labels })
}

/// Rows of ids, each padded at its end to one length.
fn padded(mut rows: Vec<Vec<u32>>, padding: u32, lengths: TextLengths) -> TextIds {
    let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = longest.next_multiple_of(lengths.multiple.max(1)).min(lengths.most).max(longest);
    rows.iter_mut().for_each(|row| row.resize(length, padding));
    TextIds { ids: rows.concat(), length }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const TOKENS: QuestionTokens = QuestionTokens { question: 121, answer: 120, end: 102 };

    const UNPADDED: TextLengths = TextLengths { multiple: 1, most: 512 };

    #[test]
    fn rows_are_taken_apart_where_their_labels_begin_and_end() {
        let ids = [[120u32, 7, 8, 9, 102, 0], [120, 5, 4, 3, 2, 102]];
        let labels = [vec![-100, -100, -100, 9, 102, -100], vec![-100, -100, 4, 3, 2, 102]];
        let ids = Tensor::new(&ids, &Device::Cpu).unwrap();
        let batch = question_batch(&ids, &labels, TOKENS, UNPADDED).unwrap();
        let [questions, answers] = &batch.texts[..] else { panic!("{batch:?}") };
        assert_eq!((questions.length, &questions.ids[..]), (4, &[121, 7, 8, 102, 121, 5, 102, 102][..]));
        assert_eq!(batch.lengths, [4, 3]);
        assert_eq!((answers.length, &answers.ids[..]), (5, &[120, 9, 102, 102, 102, 120, 4, 3, 2, 102][..]));
        let labels = batch.shifted_labels().unwrap();
        assert_eq!(labels.targets, [9, 102, 4, 3, 2, 102]);
        assert_eq!(labels.positions, [0, 1, 5, 6, 7, 8]);
    }

    #[test]
    fn questions_and_answers_are_padded_to_multiples_and_never_beyond_the_positions() {
        let rows = || vec![vec![1, 2, 3], vec![4]];
        let padded = |multiple, most| padded(rows(), 9, TextLengths { multiple, most });
        assert_eq!(padded(4, 512), TextIds { ids: vec![1, 2, 3, 9, 4, 9, 9, 9], length: 4 });
        assert_eq!([padded(8, 512).length, padded(8, 5).length, padded(8, 2).length], [8, 5, 3]);
    }

    #[test]
    fn a_caption_without_a_question_is_refused_with_its_row() {
        let ids = Tensor::new(&[[120u32, 7, 9, 102], [120, 5, 4, 102]], &Device::Cpu).unwrap();
        for labels in [[-100, 5, 4, 102], [120, 5, 4, 102]] {
            let labels = [vec![-100, -100, 9, 102], labels.to_vec()];
            let error = question_batch(&ids, &labels, TOKENS, UNPADDED).unwrap_err().to_string();
            assert!(error.contains("row 1 of the batch") && error.contains("prompt"), "{error}");
        }
    }
}
