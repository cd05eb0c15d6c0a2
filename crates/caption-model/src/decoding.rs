use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use caption_generation::{BestTokens, CaptionDecoder, NextTokens, SpeculativeDecoder, Step};
use train_ops::{DecodingRows, ForwardContext, KeyValueCache, TopLogits, enter, snapshot, top_logits};

use crate::decoding_graphs::{Lent, RecordableStep};
use crate::{CaptionModel, DecoderShape, DecodingGraphs, Draft, Error, Result};

/// A copy of a model's text decoder with its language-modelling head. Frozen and adapted layers keep the state
/// of the time of the copy; trainable layers are shared with the model. A step computes a few new tokens.
pub trait TextDecoder: Debug + Send + Sync {
    /// The sizes that a draft has to share with the model.
    fn shape(&self) -> DecoderShape;

    /// Logits `(rows, vocabulary)` after the newest tokens of `rows`, from the embeddings `text`
    /// `(rows, new, hidden)` of these tokens. The tokens' keys and values are written to `caches`, one for each
    /// layer.
    ///
    /// # Errors
    /// If there are too few cache slots.
    fn step(&self, text: &Tensor, caches: &[KeyValueCache], rows: &DecodingRows) -> Result<Tensor>;
}

/// Sequences that are being decoded, with the keys and values of their tokens.
///
/// [`generate`](CaptionModel::generate) makes one itself.
#[derive(Debug)]
pub struct Decoding<'a, M: ?Sized> {
    model: &'a M,
    /// All steps are one pass, in which the weights of adapters do not change.
    ctx: ForwardContext,
    decoder: Arc<dyn TextDecoder>,
    draft: Option<&'a Draft>,
    rows: DecodingRows,
    /// The rows after each step of the last verification.
    verified: Vec<DecodingRows>,
    /// One for each layer; none if those of `graphs` are used.
    caches: Vec<KeyValueCache>,
    /// Steps that are recorded as CUDA graphs, with their caches.
    graphs: Option<Lent<'a>>,
}

impl<'a, M: CaptionModel + ?Sized> Decoding<'a, M> {
    /// Begins to decode. There is one sequence without text for each picture, and there are cache slots for
    /// `slots` text tokens of all sequences together. The keys and values of `states`, which come from
    /// [`decoder_input`](CaptionModel::decoder_input), are computed here.
    ///
    /// To use a different adapter for each picture, enter a context with their names first
    /// ([`ForwardContext::with_adapters`], [`enter`]).
    ///
    /// # Errors
    /// If `states` do not have the shape that the model needs, or the entered context names adapters for
    /// another number of pictures.
    pub fn new(model: &'a M, states: &Tensor, slots: usize) -> Result<Self> {
        let (ctx, pictures) = (ForwardContext::inference(), states.dim(0)?);
        if let Some(names) = ctx.adapters().filter(|names| names.len() != pictures) {
            return Err(Error::Shape {
                input: "adapters of a batch",
                expected: format!("({pictures}), a name for each picture"),
                got: vec![names.len()],
            });
        }
        let _pass = enter(ctx.clone());
        let mut caches = model.caches(states, slots)?;
        let mut graphs = model.decoding_graphs().and_then(DecodingGraphs::lend);
        if let Some(graphs) = &mut graphs {
            graphs.recordings.begin(std::mem::take(&mut caches))?;
        }
        Ok(Self {
            model,
            ctx,
            decoder: model.text_decoder(snapshot)?.into(),
            draft: None,
            caches,
            graphs,
            rows: DecodingRows::new(pictures),
            verified: Vec::new(),
        })
    }

    /// Adds a draft for [`SpeculativeDecoder`]. Without one, the model is its own draft.
    ///
    /// # Errors
    /// If the draft belongs to a model of another shape.
    pub fn with_draft(self, draft: &'a Draft) -> Result<Self> {
        let (of_draft, model) = (draft.decoder.shape(), self.decoder.shape());
        if of_draft != model {
            return Err(Error::DraftShape { draft: of_draft, model });
        }
        Ok(Self { draft: Some(draft), ..self })
    }

    /// The rows after each of `steps`, which follow one another from the live sequences.
    fn after(&self, steps: &[Step]) -> Result<Vec<DecodingRows>> {
        let mut rows = self.rows.clone();
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            if step.tokens.len() != step.parents.len() {
                return Err(Error::Shape {
                    input: "tokens of a step",
                    expected: format!("({}), one for each parent", step.parents.len()),
                    got: vec![step.tokens.len()],
                });
            }
            reorder(&mut rows, &step.parents)?;
            rows.extend(1);
            all.push(rows.clone());
        }
        Ok(all)
    }

    /// Logits after the last of `input_ids` `(sequences, new)`, the newest tokens of `rows`, by `decoder`; one row of the
    /// vocabulary's size after another.
    fn logits(&self, decoder: &dyn TextDecoder, input_ids: &[u32], rows: &DecodingRows) -> Result<Vec<f32>> {
        let logits = self.step(decoder, input_ids, rows)?;
        Ok(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// The same logits on the device, `(sequences, vocabulary)`. Keys and values of the tokens are written to the caches.
    fn step(&self, decoder: &dyn TextDecoder, input_ids: &[u32], rows: &DecodingRows) -> Result<Tensor> {
        let (sequences, new) = (rows.len(), self.check(input_ids, rows)?);
        let device = self.model.device();
        let positions = rows.lengths().flat_map(|length| length - new..length).map(|at| at as u32);
        let positions = Tensor::new(positions.collect::<Vec<_>>(), device)?.reshape((sequences, new))?;
        let input_ids = Tensor::new(input_ids, device)?.reshape((sequences, new))?;
        let _pass = enter(self.ctx.select(rows.images()));
        let text = self.model.embed(&input_ids, &positions)?;
        let caches = self.graphs.as_ref().map_or(&self.caches[..], |graphs| graphs.recordings.caches());
        decoder.step(&text, caches, rows)
    }

    /// The number of new tokens of each row.
    fn check(&self, input_ids: &[u32], rows: &DecodingRows) -> Result<usize> {
        let sequences = rows.len();
        if sequences == 0 || input_ids.is_empty() || !input_ids.len().is_multiple_of(sequences) {
            return Err(Error::Shape {
                input: "input_ids",
                expected: format!("({sequences}, new tokens)"),
                got: vec![input_ids.len()],
            });
        }
        let (got, max) = (rows.tokens(), self.model.tokens().max_length);
        if got > max {
            return Err(Error::TooLong { got, max });
        }
        Ok(input_ids.len() / sequences)
    }

    /// The logits of a step, or as many of the `best` of each sequence, if a graph computes them.
    fn replay(
        &mut self,
        tokens: &[u32],
        rows: &DecodingRows,
        best: Option<usize>,
    ) -> Result<Option<Vec<f32>>> {
        // The first step of a pass reads the adapters that graphs were recorded with, or others.
        let is_first = self.rows.tokens() == 0;
        if is_first || self.check(tokens, rows)? > 1 || self.ctx.adapters().is_some() {
            return Ok(None);
        }
        let Some(graphs) = &mut self.graphs else { return Ok(None) };
        let (model, decoder, ctx) = (self.model, &self.decoder, &self.ctx);
        graphs.recordings.run(&RecordableStep { model, decoder, ctx, rows, tokens, best })
    }

    /// The live sequences after `tokens` are appended to them.
    fn extended(&self, tokens: &[u32]) -> DecodingRows {
        let mut rows = self.rows.clone();
        rows.extend(tokens.len() / rows.len().max(1));
        rows
    }
}

impl<M: CaptionModel + ?Sized> CaptionDecoder for Decoding<'_, M> {
    type Error = Error;

    fn sequences(&self) -> usize {
        self.rows.len()
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let rows = self.extended(tokens);
        let logits = match self.replay(tokens, &rows, None)? {
            Some(logits) => logits,
            None => self.logits(self.decoder.as_ref(), tokens, &rows)?,
        };
        self.rows = rows;
        Ok(logits)
    }

    /// Returns whole rows if they are on the host already, or if there is no kernel for the best tokens.
    fn append_for_best(&mut self, tokens: &[u32], count: usize) -> Result<NextTokens> {
        let rows = self.extended(tokens);
        let of_graph = rounded(count).min(self.model.tokens().vocab_size);
        if let Some(packed) = self.replay(tokens, &rows, Some(of_graph))? {
            self.rows = rows;
            return Ok(best(TopLogits::unpack(&packed, of_graph), of_graph));
        }
        let logits = self.step(self.decoder.as_ref(), tokens, &rows)?;
        self.rows = rows;
        Ok(match top_logits(&logits, count)? {
            Some(found) => best(found, count),
            None => NextTokens::All(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?),
        })
    }

    fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        reorder(&mut self.rows, parents)
    }
}

impl<M: CaptionModel + ?Sized> SpeculativeDecoder for Decoding<'_, M> {
    /// The draft writes its keys and values to the slots that the model overwrites when it reads the same
    /// tokens. So the draft needs no cache of its own.
    fn draft_logits(&mut self, steps: &[Step]) -> Result<Vec<f32>> {
        let decoder = self.draft.map_or(self.decoder.as_ref(), |draft| draft.decoder.as_ref());
        match (steps.last(), self.after(steps)?.last()) {
            (Some(step), Some(rows)) => self.logits(decoder, &step.tokens, rows),
            _ => Ok(Vec::new()),
        }
    }

    fn verify(&mut self, steps: &[Step]) -> Result<Vec<f32>> {
        let verified = self.after(steps)?;
        let tokens: Vec<u32> = steps.iter().flat_map(|step| &step.tokens).copied().collect();
        let logits = self.logits(self.decoder.as_ref(), &tokens, &DecodingRows::join(&verified))?;
        self.verified = verified;
        Ok(logits)
    }

    fn accept(&mut self, accepted: usize) -> Result<()> {
        let verified = std::mem::take(&mut self.verified);
        let steps = verified.len();
        let last = accepted.checked_sub(1).and_then(|last| verified.into_iter().nth(last));
        self.rows = last.ok_or(Error::UnknownStep { accepted, steps })?;
        Ok(())
    }
}

/// The number of best logits that a graph finds for a search that needs `count`. With penalties, a search needs more in each step, and
/// would otherwise have a graph for each.
fn rounded(count: usize) -> usize {
    if count <= 8 { count.next_power_of_two() } else { count.next_multiple_of(16) }
}

fn best(TopLogits { ids, logits, log_sums }: TopLogits, count: usize) -> NextTokens {
    NextTokens::Best(BestTokens { count, ids, logits, log_sums })
}

fn reorder(rows: &mut DecodingRows, parents: &[usize]) -> Result<()> {
    let sequences = rows.len();
    if let Some(parent) = parents.iter().find(|parent| **parent >= sequences) {
        return Err(Error::UnknownSequence { parent: *parent, sequences });
    }
    Ok(rows.reorder(parents)?)
}
