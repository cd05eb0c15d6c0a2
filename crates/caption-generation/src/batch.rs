use std::ops::ControlFlow;

use rayon::prelude::*;

use crate::beam::BeamSearch;
use crate::caption::{Caption, Progress};
use crate::config::GenerationConfig;
use crate::decoder::Step;
use crate::next_tokens::NextTokens;
use crate::row::{Row, rows};
use crate::search::{Continuation, Search};
use crate::single::SingleSearch;

/// The searches for the captions of a batch of pictures. Live sequences are numbered in the order of their
/// searches: those of the first search, then those of the second, and so on. A finished search has none.
pub(crate) struct SearchBatch<'a> {
    entries: Vec<Entry<'a>>,
    vocab_size: usize,
}

/// A search and the caption that it is for.
struct Entry<'a> {
    picture: usize,
    sequence: usize,
    search: Box<dyn Search + 'a>,
    /// Whether the search took part in the last step.
    advanced: bool,
}

/// The part of a step that belongs to one search.
struct SearchStep {
    /// Number of the search's live sequences before the step.
    before: usize,
    continuations: Vec<Continuation>,
}

impl<'a> SearchBatch<'a> {
    pub(crate) fn new(
        pictures: usize,
        prompt: &[u32],
        config: &'a GenerationConfig,
        eos: &'a [u32],
        vocab_size: usize,
    ) -> Self {
        let search = |sequence| -> Box<dyn Search + 'a> {
            match config.num_beams {
                1 => Box::new(SingleSearch::new(config, eos, prompt, sequence)),
                _ => Box::new(BeamSearch::new(config, eos, prompt)),
            }
        };
        let searches = if config.num_beams > 1 { 1 } else { config.num_return_sequences };
        let entry =
            |picture, sequence| Entry { picture, sequence, search: search(sequence), advanced: false };
        let entries =
            (0..pictures).flat_map(|picture| (0..searches).map(move |sequence| (picture, sequence)));
        Self { entries: entries.map(|(picture, sequence)| entry(picture, sequence)).collect(), vocab_size }
    }

    /// For each live sequence before the first step, its picture.
    pub(crate) fn pictures(&self) -> Vec<usize> {
        self.entries.iter().flat_map(|entry| vec![entry.picture; entry.search.sequences()]).collect()
    }

    /// The number of largest logits of each sequence that are enough to decide the next step; `None` if all
    /// logits are needed.
    pub(crate) fn needed_logits(&self) -> Option<usize> {
        let live = self.entries.iter().filter(|entry| !entry.search.is_done());
        let needed = live
            .map(|entry| entry.search.needed_logits())
            .try_fold(1, |most, needed| Some(most.max(needed?)));
        needed.map(|needed| needed.min(self.vocab_size))
    }

    /// The next step of all live sequences, from the logits that follow them. The searches are independent of one another
    /// and run in parallel.
    pub(crate) fn advance(&mut self, next: &mut NextTokens) -> Step {
        let mut rows = rows(next, self.vocab_size).into_iter();
        let mut active: Vec<(_, Vec<Row<'_>>)> = Vec::new();
        for entry in &mut self.entries {
            entry.advanced = !entry.search.is_done();
            if entry.advanced {
                let own = rows.by_ref().take(entry.search.sequences()).collect();
                active.push((&mut entry.search, own));
            }
        }
        let steps = active.into_par_iter().map(|(search, mut rows)| {
            let before = search.sequences();
            let continuations = search.advance(&mut rows);
            let continuations = if search.is_done() { Vec::new() } else { continuations };
            SearchStep { before, continuations }
        });
        let mut next = Step::default();
        let mut first = 0;
        for SearchStep { before, continuations } in steps.collect::<Vec<_>>() {
            next.parents.extend(continuations.iter().map(|continuation| first + continuation.parent));
            next.tokens.extend(continuations.iter().map(|continuation| continuation.token));
            first += before;
        }
        next
    }

    /// Calls `on_token` for each search that took part in the last step.
    pub(crate) fn report(
        &self,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut advanced = self.entries.iter().filter(|entry| entry.advanced);
        advanced.try_for_each(|entry| {
            let Entry { picture, sequence, ref search, .. } = *entry;
            on_token(Progress { picture, sequence, ids: search.best() })
        })
    }

    /// Independent copies of the unfinished searches, with which a draft proposes steps.
    pub(crate) fn fork(&self) -> SearchBatch<'_> {
        let live = self.entries.iter().filter(|entry| !entry.search.is_done());
        SearchBatch {
            entries: live.map(|entry| Entry { search: entry.search.fork(), ..*entry }).collect(),
            vocab_size: self.vocab_size,
        }
    }

    pub(crate) fn captions(&self) -> Vec<Caption> {
        self.entries.iter().flat_map(|entry| entry.search.captions()).collect()
    }
}
