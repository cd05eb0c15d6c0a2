/// A generated caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Caption {
    /// The token ids: the prompt (the start token if none was given), the new tokens, and the end token if it was reached.
    pub ids: Vec<u32>,
    /// The sum of the new tokens' log-probabilities `/ number of new tokens ^ length_penalty`, the end token
    /// included, as `sequences_scores` of transformers. Without beams, the log-probabilities are those of the
    /// distribution from which the token was chosen: after penalties and forbidden tokens and, with sampling,
    /// after temperature, top-k, top-p and min-p.
    pub score: f32,
}

/// The state of a caption that is being generated.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Index of the picture in the batch.
    pub picture: usize,
    /// Index of the caption among those sampled for the picture; 0 without sampling.
    pub sequence: usize,
    /// Its tokens from the first of the prompt to the newest. In beam search, the tokens of the currently best beam, which
    /// another may overtake.
    pub ids: &'a [u32],
}
