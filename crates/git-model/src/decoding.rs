use candle_core::{DType, Tensor};
use caption_generation::{CaptionDecoder, SpeculativeDecoder, Step};
use train_ops::{DecodingRows, ForwardContext, KeyValueCache, snapshot};

use crate::draft::DecoderWithHead;
use crate::{Draft, Error, GitForCausalLm, Result};

/// Sequences in the middle of being decoded, with the keys and values of their tokens.
///
/// [`begin_decoding`](GitForCausalLm::begin_decoding) makes one; [`generate`](GitForCausalLm::generate) does so itself.
#[derive(Debug)]
pub struct Decoding<'a> {
    model: &'a GitForCausalLm,
    layers: DecoderWithHead,
    draft: Option<&'a Draft>,
    rows: DecodingRows,
    /// The rows after each step that was verified last.
    verified: Vec<DecodingRows>,
    /// One for each layer.
    caches: Vec<KeyValueCache>,
}

impl GitForCausalLm {
    /// Begins to decode: one sequence without text for each picture, whose keys and values are computed here, and cache
    /// slots for `slots` text tokens of all sequences together.
    ///
    /// # Errors
    /// If `image_features` are not `(batch, tokens, vision_hidden)`.
    pub fn begin_decoding(&self, image_features: &Tensor, slots: usize) -> Result<Decoding<'_>> {
        let image = self.project(image_features, &ForwardContext::inference())?;
        Ok(Decoding {
            model: self,
            layers: DecoderWithHead::of(self, snapshot)?,
            draft: None,
            rows: DecodingRows::new(image.dim(0)?),
            verified: Vec::new(),
            caches: self.decoder.caches(&image, slots)?,
        })
    }
}

impl<'a> Decoding<'a> {
    /// Adds a draft for [`SpeculativeDecoder`]. Without one, the model is its own draft.
    ///
    /// # Errors
    /// If the draft belongs to a model of another shape.
    pub fn with_draft(self, draft: &'a Draft) -> Result<Self> {
        self.model.check_draft(draft)?;
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

    /// Logits after the last of `input_ids` `(sequences, new)`, the newest tokens of `rows`, by way of `layers`; one row of
    /// the vocabulary's size after another. Keys and values of the tokens are written to the caches.
    fn logits(&self, layers: &DecoderWithHead, input_ids: &[u32], rows: &DecodingRows) -> Result<Vec<f32>> {
        let sequences = rows.len();
        if sequences == 0 || input_ids.is_empty() || !input_ids.len().is_multiple_of(sequences) {
            return Err(Error::Shape {
                input: "input_ids",
                expected: format!("({sequences}, new tokens)"),
                got: vec![input_ids.len()],
            });
        }
        let new = input_ids.len() / sequences;
        self.model.check_length(rows.tokens())?;
        let ctx = ForwardContext::inference();
        let device = self.model.device();
        let positions = rows.lengths().flat_map(|length| length - new..length).map(|at| at as u32);
        let positions = Tensor::new(positions.collect::<Vec<_>>(), device)?;
        let positions = ctx.parameter(&self.model.position_embeddings).index_select(&positions, 0)?;
        let input_ids = Tensor::new(input_ids, device)?.reshape((sequences, new))?;
        let text = self.model.embed(&input_ids, &positions.reshape((sequences, new, ()))?, &ctx)?;
        let hidden_states = layers.decoder.step(&text, &self.caches, rows)?;
        let last = hidden_states.narrow(1, new - 1, 1)?.squeeze(1)?;
        let logits = layers.lm_head.forward(&last.contiguous()?, &ctx)?;
        Ok(logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }
}

impl CaptionDecoder for Decoding<'_> {
    type Error = Error;

    fn sequences(&self) -> usize {
        self.rows.len()
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut rows = self.rows.clone();
        rows.extend(tokens.len() / rows.len().max(1));
        let logits = self.logits(&self.layers, tokens, &rows)?;
        self.rows = rows;
        Ok(logits)
    }

    fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        reorder(&mut self.rows, parents)
    }
}

impl SpeculativeDecoder for Decoding<'_> {
    /// The draft writes its keys and values where the model writes its own when it reads the same tokens, so that it needs
    /// no cache and leaves no trace.
    fn draft_logits(&mut self, steps: &[Step]) -> Result<Vec<f32>> {
        let layers = self.draft.map_or(&self.layers, |draft| &draft.layers);
        match (steps.last(), self.after(steps)?.last()) {
            (Some(step), Some(rows)) => self.logits(layers, &step.tokens, rows),
            _ => Ok(Vec::new()),
        }
    }

    fn verify(&mut self, steps: &[Step]) -> Result<Vec<f32>> {
        let verified = self.after(steps)?;
        let tokens: Vec<u32> = steps.iter().flat_map(|step| &step.tokens).copied().collect();
        let logits = self.logits(&self.layers, &tokens, &DecodingRows::join(&verified))?;
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

fn reorder(rows: &mut DecodingRows, parents: &[usize]) -> Result<()> {
    let sequences = rows.len();
    if let Some(parent) = parents.iter().find(|parent| **parent >= sequences) {
        return Err(Error::UnknownSequence { parent: *parent, sequences });
    }
    Ok(rows.reorder(parents)?)
}
