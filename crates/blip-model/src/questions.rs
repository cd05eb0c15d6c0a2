use candle_core::{Device, Tensor};
use caption_model::ShiftedLabels;
use train_ops::KeyLengths;

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

/// A training batch of prompts and captions, separated into questions and answers.
#[derive(Debug)]
pub(crate) struct QuestionBatch {
    /// `[ENC] question [SEP]` and padding, `(batch, tokens)`.
    pub(crate) questions: Tensor,
    /// Tokens of each question without padding.
    pub(crate) lengths: KeyLengths,
    /// `[DEC] answer [SEP]` and padding, `(batch, tokens)`.
    pub(crate) answers: Tensor,
    /// The answers' targets.
    pub(crate) labels: ShiftedLabels,
}

impl QuestionBatch {
    /// Separates rows `start question answer [SEP] padding`. The positions with labels are the answer: a row's
    /// question ends before its first label, and padding begins after its last.
    pub(crate) fn new(input_ids: &Tensor, labels: &[Vec<i64>], tokens: QuestionTokens) -> Result<Self> {
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
        let lengths: Vec<usize> = questions.iter().map(Vec::len).collect();
        let device = input_ids.device();
        let answers = padded(answers, tokens.end, device)?;
        let length = answers.dim(1)?;
        answer_labels.iter_mut().for_each(|labels| labels.resize(length, -100));
        Ok(Self {
            // No token attends to padding, so any token can be used.
            questions: padded(questions, tokens.end, device)?,
            lengths: KeyLengths::new(lengths),
            labels: ShiftedLabels::new(&answer_labels, &answers)?,
            answers,
        })
    }
}

/// Rows of ids, each padded at its end to the longest.
fn padded(mut rows: Vec<Vec<u32>>, padding: u32, device: &Device) -> Result<Tensor> {
    let length = rows.iter().map(Vec::len).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row.resize(length, padding));
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), length), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: QuestionTokens = QuestionTokens { question: 121, answer: 120, end: 102 };

    #[test]
    fn rows_are_taken_apart_where_their_labels_begin_and_end() {
        let ids = [[120u32, 7, 8, 9, 102, 0], [120, 5, 4, 3, 2, 102]];
        let labels = [vec![-100, -100, -100, 9, 102, -100], vec![-100, -100, 4, 3, 2, 102]];
        let ids = Tensor::new(&ids, &Device::Cpu).unwrap();
        let batch = QuestionBatch::new(&ids, &labels, TOKENS).unwrap();
        let rows = |tensor: &Tensor| tensor.to_vec2::<u32>().unwrap();
        assert_eq!(rows(&batch.questions), [[121, 7, 8, 102], [121, 5, 102, 102]]);
        assert_eq!(batch.lengths, KeyLengths::new([4, 3]));
        assert_eq!(rows(&batch.answers), [[120, 9, 102, 102, 102], [120, 4, 3, 2, 102]]);
        assert_eq!(batch.labels.targets, [9, 102, 4, 3, 2, 102]);
        assert_eq!(batch.labels.positions, [0, 1, 5, 6, 7, 8]);
    }

    #[test]
    fn a_caption_without_a_question_is_refused_with_its_row() {
        let ids = Tensor::new(&[[120u32, 7, 9, 102], [120, 5, 4, 102]], &Device::Cpu).unwrap();
        for labels in [[-100, 5, 4, 102], [120, 5, 4, 102]] {
            let labels = [vec![-100, -100, 9, 102], labels.to_vec()];
            let error = QuestionBatch::new(&ids, &labels, TOKENS).unwrap_err().to_string();
            assert!(error.contains("row 1 of the batch") && error.contains("prompt"), "{error}");
        }
    }
}
