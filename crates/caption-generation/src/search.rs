use crate::caption::Caption;
use crate::row::Row;

/// The search for captions of one picture: it chooses the sequences to continue from the logits that follow them.
pub(crate) trait Search: Send + Sync {
    /// Number of its live sequences.
    fn sequences(&self) -> usize;

    /// The number of largest logits of each sequence that are enough to decide its next step; `None` if all
    /// logits are needed.
    fn needed_logits(&self) -> Option<usize>;

    /// Takes the logits that follow each live sequence, and may overwrite them. Returns, for each new live
    /// sequence, the old one that it continues and its new token.
    fn advance(&mut self, rows: &mut [Row<'_>]) -> Vec<Continuation>;

    fn is_done(&self) -> bool;

    /// The tokens of the best sequence so far.
    fn best(&self) -> &[u32];

    /// The captions found, best first.
    fn captions(&self) -> Vec<Caption>;

    /// An independent copy, with which a draft proposes steps.
    fn fork(&self) -> Box<dyn Search + '_>;
}

/// A live sequence continued by a token.
#[derive(Clone, Copy)]
pub(crate) struct Continuation {
    /// Index of the sequence among those of its search.
    pub(crate) parent: usize,
    pub(crate) token: u32,
}
