//! A model that is no transformer: its logits are a function of the picture and of all tokens so far.

// Each test binary compiles this module and uses a part of it; helpers of tests may panic.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::ControlFlow;

use caption_generation::{
    BestTokens, Caption, CaptionDecoder, EarlyStopping, Error, GenerationConfig, Generator, ModelTokens,
    NextTokens, Progress, Sampling, SpeculativeDecoder, Step,
};

/// The logits of the next token, from a picture's index and the tokens so far.
pub(crate) type Logits = fn(usize, &[u32]) -> Vec<f32>;

/// A live sequence: the index of its picture, and its tokens.
type Sequence = (usize, Vec<u32>);

/// A captioner whose logits are functions; its draft is another function.
pub(crate) struct Toy {
    model: Logits,
    draft: Logits,
    sequences: Vec<Sequence>,
    /// The sequences after each step that was verified last.
    verified: Vec<Vec<Sequence>>,
    /// Whether it returns only the best tokens if these are enough, and the numbers of tokens that were
    /// requested.
    pub(crate) returns_best: bool,
    pub(crate) asked_for: Vec<usize>,
    /// Rows of each pass of the model.
    pub(crate) passes: Vec<usize>,
    /// Number of passes of the draft.
    pub(crate) draft_passes: usize,
}

impl Toy {
    pub(crate) fn new(model: Logits, draft: Logits, pictures: usize) -> Self {
        let sequences = (0..pictures).map(|picture| (picture, Vec::new())).collect();
        Self {
            model,
            draft,
            sequences,
            verified: Vec::new(),
            returns_best: false,
            asked_for: Vec::new(),
            passes: Vec::new(),
            draft_passes: 0,
        }
    }

    /// The sequences after each of `steps`.
    fn after(&self, steps: &[Step]) -> Vec<Vec<Sequence>> {
        let mut sequences = self.sequences.clone();
        let apply = |step: &Step| {
            let parents = step.parents.iter().zip(&step.tokens);
            let extended = parents.map(|(parent, token)| {
                let (picture, ids) = &sequences[*parent];
                (*picture, [ids.as_slice(), &[*token]].concat())
            });
            sequences = extended.collect();
            sequences.clone()
        };
        steps.iter().map(apply).collect()
    }
}

fn rows(logits: Logits, sequences: &[Sequence]) -> Vec<f32> {
    sequences.iter().flat_map(|(picture, ids)| logits(*picture, ids)).collect()
}

impl CaptionDecoder for Toy {
    type Error = Error;

    fn sequences(&self) -> usize {
        self.sequences.len()
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let new = tokens.len() / self.sequences.len();
        for ((_, ids), tokens) in self.sequences.iter_mut().zip(tokens.chunks(new)) {
            ids.extend(tokens);
        }
        self.passes.push(tokens.len());
        Ok(rows(self.model, &self.sequences))
    }

    fn append_for_best(&mut self, tokens: &[u32], count: usize) -> Result<NextTokens, Error> {
        let logits = self.append(tokens)?;
        if !self.returns_best {
            return Ok(NextTokens::All(logits));
        }
        self.asked_for.push(count);
        let mut best = BestTokens { count, ids: Vec::new(), logits: Vec::new(), log_sums: Vec::new() };
        for row in logits.chunks(VOCAB_SIZE) {
            let mut ids: Vec<u32> = (0..VOCAB_SIZE as u32).collect();
            ids.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            best.logits.extend(ids[..count].iter().map(|id| row[*id as usize]));
            best.ids.extend(&ids[..count]);
            best.log_sums.push(row.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln() as f32);
        }
        Ok(NextTokens::Best(best))
    }

    fn reorder(&mut self, parents: &[usize]) -> Result<(), Error> {
        self.sequences = parents.iter().map(|parent| self.sequences[*parent].clone()).collect();
        Ok(())
    }
}

impl SpeculativeDecoder for Toy {
    fn draft_logits(&mut self, steps: &[Step]) -> Result<Vec<f32>, Error> {
        self.draft_passes += 1;
        Ok(rows(self.draft, self.after(steps).last().unwrap()))
    }

    fn verify(&mut self, steps: &[Step]) -> Result<Vec<f32>, Error> {
        self.verified = self.after(steps);
        let all = self.verified.concat();
        self.passes.push(all.len());
        Ok(rows(self.model, &all))
    }

    fn accept(&mut self, accepted: usize) -> Result<(), Error> {
        self.sequences = self.verified.swap_remove(accepted - 1);
        Ok(())
    }
}

/// Number of tokens of the toy; the start token is the last, as BLIP's is, and the end token the one before it.
pub(crate) const VOCAB_SIZE: usize = 12;
pub(crate) const START: u32 = 11;
pub(crate) const END: u32 = 10;

pub(crate) fn model() -> ModelTokens {
    ModelTokens { vocab_size: VOCAB_SIZE, start_token: START, end_tokens: vec![END], max_length: 64 }
}

/// Logits in [-4, 4) that depend on every token and on the picture. They are multiples of 1/4, so that many are equal.
pub(crate) fn scattered(picture: usize, ids: &[u32]) -> Vec<f32> {
    let mut state = ids.iter().fold(picture as u64 + 1, |state, id| {
        (state ^ u64::from(*id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    let mut next = || {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        ((state >> 59) as f32 - 16.0) / 4.0
    };
    (0..VOCAB_SIZE).map(|_| next()).collect()
}

pub(crate) fn continue_always(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn generate(toy: &mut Toy, prompt: Option<&[u32]>, config: &GenerationConfig) -> Vec<Caption> {
    Generator::new(&model(), prompt, config).unwrap().generate(toy, &mut continue_always).unwrap()
}

/// One configuration for each kind of search, with the options that change logits.
pub(crate) fn searches() -> Vec<GenerationConfig> {
    let base = || GenerationConfig { max_new_tokens: 20, min_new_tokens: 4, ..GenerationConfig::default() };
    let sampling = Sampling { temperature: 1.5, top_k: 6, top_p: 0.9, min_p: 0.02, seed: 5 };
    vec![
        base(),
        GenerationConfig { repetition_penalty: 1.3, no_repeat_ngram_size: 2, ..base() },
        GenerationConfig { num_beams: 3, num_return_sequences: 2, ..base() },
        GenerationConfig { num_beams: 2, early_stopping: EarlyStopping::Always, ..base() },
        GenerationConfig {
            num_beams: 4,
            early_stopping: EarlyStopping::Never,
            length_penalty: 2.0,
            ..base()
        },
        GenerationConfig { bad_words: vec![vec![3], vec![1, 2]], min_new_tokens: 0, ..base() },
        GenerationConfig { num_return_sequences: 3, sampling: Some(sampling), ..base() },
        GenerationConfig { max_new_tokens: 1, min_new_tokens: 0, ..base() },
    ]
}
