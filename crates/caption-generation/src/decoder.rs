use crate::error::Error;
use crate::next_tokens::NextTokens;

/// One step of all live sequences (beams or samples): the new sequence `i` is the old sequence `parents[i]`
/// followed by `tokens[i]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// For each sequence after the step, the sequence before it that it continues.
    pub parents: Vec<usize>,
    /// For each sequence after the step, its new token.
    pub tokens: Vec<u32>,
}

/// A captioning model while it decodes a batch of pictures: its live sequences, and the cached keys and values
/// for them.
///
/// A decoder begins with one sequence without tokens for each picture. The implementation decides how the model
/// reads the pictures (as a prefix of image tokens, or by cross-attention). Methods are called on a thread of
/// rayon's pool.
pub trait CaptionDecoder: Send {
    /// The model's error; errors of this crate are converted to it.
    type Error: From<Error> + Send;

    /// Number of live sequences.
    fn sequences(&self) -> usize;

    /// Appends the same number of tokens to each live sequence. `tokens` has those of the first sequence, then
    /// those of the second, and so on. Returns the logits that follow the last token of each sequence, one row
    /// of `vocab_size` values after another.
    ///
    /// # Errors
    /// The model's errors.
    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Self::Error>;

    /// As [`append`](Self::append), for a search that needs only the `count` tokens with the largest logits of
    /// each row. A decoder may return only these, for instance if copying whole rows to the host is slow.
    /// Default: whole rows.
    ///
    /// # Errors
    /// The model's errors.
    fn append_for_best(&mut self, tokens: &[u32], _count: usize) -> Result<NextTokens, Self::Error> {
        self.append(tokens).map(NextTokens::All)
    }

    /// Replaces the live sequences: the new sequence `i` is a copy of the old sequence `parents[i]`. There may be more or
    /// fewer sequences afterwards.
    ///
    /// # Errors
    /// The model's errors.
    fn reorder(&mut self, parents: &[usize]) -> Result<(), Self::Error>;
}

/// A decoder with a draft model, for speculative decoding (Leviathan et al., 2023, <https://arxiv.org/abs/2211.17192>).
///
/// The draft is fast and may be wrong. It proposes the next few steps, and the model verifies all of them in
/// one pass. Whatever the draft proposes, the captions are those of plain decoding if [`verify`](Self::verify)
/// and [`append`](CaptionDecoder::append) give the same logits.
pub trait SpeculativeDecoder: CaptionDecoder {
    /// The draft's logits after the last of `steps`, which follow one another from the live sequences: one row
    /// of `vocab_size` values for each sequence of the last step. The live sequences do not change.
    ///
    /// Between two calls of [`verify`](Self::verify), each call has the steps of the call before and one more.
    /// So a draft with a cache of its own has to read only the newest step.
    ///
    /// # Errors
    /// The draft model's errors.
    fn draft_logits(&mut self, steps: &[Step]) -> Result<Vec<f32>, Self::Error>;

    /// The model's logits after each of `steps`, which follow one another from the live sequences, in one pass: the rows
    /// of the first step's sequences, then those of the second step's, and so on. There is at least one step.
    ///
    /// The live sequences do not change until [`accept`](Self::accept).
    ///
    /// # Errors
    /// The model's errors.
    fn verify(&mut self, steps: &[Step]) -> Result<Vec<f32>, Self::Error>;

    /// Accepts the first `accepted` steps (at least one) of the last verification: the live sequences become
    /// those after these steps, and the other steps are discarded.
    ///
    /// # Errors
    /// The model's errors.
    fn accept(&mut self, accepted: usize) -> Result<(), Self::Error>;

    /// The largest number of rows (sequences times steps of a call of [`verify`](Self::verify)) that takes the
    /// model about the time of one row, because it is limited by reading the weights. Default: 8.
    fn max_rows(&self) -> usize {
        8
    }
}
