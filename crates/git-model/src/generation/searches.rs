use std::ops::ControlFlow;

use rayon::prelude::*;

use super::beam::BeamSearch;
use super::single::SingleSearch;
use super::{Caption, GenerationConfig, Progress};

/// The search for captions of one picture: which sequences it wants continued, and what it makes of their scores.
pub(super) trait Search: Send + Sync {
    /// Sequences that it follows at a time.
    fn rows(&self) -> usize;

    /// Takes the logits that follow each of its sequences, `(rows, vocabulary)`, and may overwrite them; returns each new
    /// sequence's last token and the row that it continues.
    fn advance(&mut self, logits: &mut [f32]) -> Vec<Step>;

    fn is_done(&self) -> bool;

    /// The best sequence so far.
    fn best(&self) -> &[u32];

    /// What was found; of several, the best first.
    fn captions(&self) -> Vec<Caption>;

    /// A search that goes on from here and leaves this one where it is.
    fn fork(&self) -> Box<dyn Search + '_>;
}

pub(super) struct Step {
    pub(super) parent: usize,
    pub(super) token: u32,
}

/// How the sequences go on that are followed: each is that of a row before it and a token more.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Next {
    pub(super) parents: Vec<usize>,
    pub(super) tokens: Vec<u32>,
}

/// The searches of a batch. A row of logits belongs to each sequence that is followed: those of the first search, those of
/// the second, and so on; searches that are done have none.
pub(super) struct Searches<'a> {
    jobs: Vec<Job<'a>>,
    vocabulary: usize,
}

/// A search and what it is for.
struct Job<'a> {
    picture: usize,
    sequence: usize,
    search: Box<dyn Search + 'a>,
    /// Whether it took part in the last step.
    advanced: bool,
}

impl<'a> Searches<'a> {
    pub(super) fn new(
        pictures: usize,
        prompt: &[u32],
        config: &'a GenerationConfig,
        eos: &'a [u32],
        vocabulary: usize,
    ) -> Self {
        let search = |sequence| -> Box<dyn Search + 'a> {
            match config.num_beams {
                1 => Box::new(SingleSearch::new(config, eos, prompt, sequence as u64)),
                _ => Box::new(BeamSearch::new(config, eos, prompt)),
            }
        };
        let sequences = if config.num_beams > 1 { 1 } else { config.num_return_sequences };
        let job = |picture, sequence| Job { picture, sequence, search: search(sequence), advanced: false };
        let jobs = (0..pictures).flat_map(|picture| (0..sequences).map(move |sequence| (picture, sequence)));
        Self { jobs: jobs.map(|(picture, sequence)| job(picture, sequence)).collect(), vocabulary }
    }

    /// The picture of each row, before the first step.
    pub(super) fn pictures(&self) -> Vec<usize> {
        self.jobs.iter().flat_map(|job| vec![job.picture; job.search.rows()]).collect()
    }

    /// How the sequences go on, from the logits of all that are followed. No search knows of another, so that they look at
    /// their logits side by side.
    pub(super) fn advance(&mut self, mut logits: &mut [f32]) -> Next {
        let mut active = Vec::new();
        for job in &mut self.jobs {
            job.advanced = !job.search.is_done();
            if job.advanced {
                let rows = job.search.rows();
                let (of_job, rest) = logits.split_at_mut(rows * self.vocabulary);
                logits = rest;
                active.push((job, rows, of_job));
            }
        }
        let steps = active.into_par_iter().map(|(job, rows, logits)| {
            let steps = job.search.advance(logits);
            (rows, if job.search.is_done() { Vec::new() } else { steps })
        });
        let mut next = Next::default();
        let mut first = 0;
        for (rows, steps) in steps.collect::<Vec<_>>() {
            next.parents.extend(steps.iter().map(|step| first + step.parent));
            next.tokens.extend(steps.iter().map(|step| step.token));
            first += rows;
        }
        next
    }

    /// Calls `on_token` for each search that took part in the last step.
    pub(super) fn report(
        &self,
        on_token: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut advanced = self.jobs.iter().filter(|job| job.advanced);
        advanced.try_for_each(|job| {
            let Job { picture, sequence, ref search, .. } = *job;
            on_token(Progress { picture, sequence, ids: search.best() })
        })
    }

    /// Searches that go on from here and leave these where they are.
    pub(super) fn fork(&self) -> Searches<'_> {
        let going_on = self.jobs.iter().filter(|job| !job.search.is_done());
        Searches {
            jobs: going_on.map(|job| Job { search: job.search.fork(), ..*job }).collect(),
            vocabulary: self.vocabulary,
        }
    }

    pub(super) fn captions(&self) -> Vec<Caption> {
        self.jobs.iter().flat_map(|job| job.search.captions()).collect()
    }
}
