use std::sync::Arc;

use candle_core::Tensor;
use train_ops::{DecodingRows, KeyValueCache, LinearLayer, Pass, int8_snapshot, snapshot};

use crate::decoder::{Decoder, LayerMap};
use crate::{Error, GitForCausalLm, Result};

/// Sequences in the middle of being decoded, with the keys and values of what they have said.
#[derive(Debug)]
pub struct Decoding {
    pub(crate) rows: DecodingRows,
    reader: DecoderWithHead,
    /// One for each layer.
    caches: Vec<KeyValueCache>,
}

/// The model's decoder and head with weights of 8 bits, to guess what the model says next.
///
/// A step of decoding takes as long as the weights take to come from memory, for one token of a caption or for several. So
/// a quarter of the bytes says what the next tokens may be, and the whole model reads all of them in one step and says
/// which are right (speculative decoding, Leviathan et al., 2023, <https://arxiv.org/abs/2211.17192>, here for every kind
/// of search); see [`generate_with`](GitForCausalLm::generate_with).
///
/// Of layers that are frozen, with adapters or without, in f32, bf16 or 8 bits, a row's results do not depend on the rows that
/// are read with it, and so what the guesses are has no influence on the captions, to the last bit. A layer of another kind is
/// its own draft, with nothing to gain, and may round several rows in another way than one.
#[derive(Debug)]
pub struct Draft {
    reader: DecoderWithHead,
}

/// A decoder and its head as they were at one time, trainable layers aside: those are as they are.
#[derive(Debug)]
struct DecoderWithHead {
    decoder: Decoder,
    lm_head: Arc<dyn LinearLayer>,
}

impl DecoderWithHead {
    fn of(model: &GitForCausalLm, layer: LayerMap) -> Result<Self> {
        Ok(Self { decoder: model.decoder.map_linear(layer)?, lm_head: layer(&model.lm_head)? })
    }
}

impl GitForCausalLm {
    /// Checks that `draft` is of a model of this one's shape.
    pub(crate) fn check_draft(&self, draft: &Draft) -> Result<()> {
        let shape = |decoder: &Decoder, head: &dyn LinearLayer| {
            (decoder.layers(), head.in_features(), head.out_features())
        };
        let of_draft = shape(&draft.reader.decoder, draft.reader.lm_head.as_ref());
        let own = shape(&self.decoder, self.lm_head.as_ref());
        if of_draft == own {
            return Ok(());
        }
        let name = |(layers, hidden_size, vocabulary): (usize, usize, usize)| {
            format!("{layers} layers, hidden size {hidden_size} and a vocabulary of {vocabulary}")
        };
        let problem = format!(
            "the draft is of another model, which has {}; this one has {}",
            name(of_draft),
            name(own)
        );
        Err(Error::Generation(problem))
    }

    /// What [`next_logits`](Self::next_logits) goes on from: one sequence without text for each picture, whose keys and
    /// values are computed here, and room for `places` text tokens of all sequences that come of them.
    ///
    /// [`generate`](Self::generate) does all of this; a search of another kind begins here.
    pub fn begin_decoding(&self, image_features: &Tensor, places: usize) -> Result<Decoding> {
        let image = self.project(image_features, &Pass::inference())?;
        let rows = DecodingRows::new(image.dim(0)?);
        let caches = self.decoder.caches(&image, places)?;
        Ok(Decoding { rows, reader: DecoderWithHead::of(self, snapshot)?, caches })
    }

    /// Logits after the last of `input_ids` `(sequences, new)`, which the sequences of `decoding` go on with:
    /// `(sequences, vocab_size)`.
    pub fn next_logits(&self, input_ids: &Tensor, decoding: &mut Decoding) -> Result<Tensor> {
        let (sequences, new) = input_ids.dims2()?;
        if sequences != decoding.rows.len() {
            return Err(Error::Shape {
                input: "input_ids",
                expected: format!("({}, new tokens)", decoding.rows.len()),
                got: input_ids.dims().to_vec(),
            });
        }
        self.check_length(decoding.rows.tokens() + new)?;
        decoding.rows.extend(new);
        self.logits_of(&decoding.reader, input_ids, &decoding.rows, &decoding.caches)
    }

    /// The weights that a step of decoding multiplies with, in number: those of the decoder's layers and of the head.
    pub fn decoder_weights(&self) -> usize {
        let config = self.config();
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        config.num_hidden_layers * (4 * width * width + 2 * width * inner) + width * config.vocab_size
    }

    /// A draft of the model and its adapters as they are now, for [`generate_with`](Self::generate_with).
    ///
    /// # Errors
    /// If the model is not in host memory: elsewhere there are no weights of 8 bits.
    pub fn draft(&self) -> Result<Draft> {
        if !self.device().is_cpu() {
            let problem = "a draft is for models on the CPU, where decoding waits for the weights";
            return Err(Error::Generation(problem.to_owned()));
        }
        Ok(Draft { reader: DecoderWithHead::of(self, int8_snapshot)? })
    }

    /// Logits after the newest token of each of `rows`, which are those of `decoding` one token later or several: those of
    /// `draft`, if there is one. It leaves keys and values of its own behind until the model reads the same tokens.
    pub(crate) fn newest_logits(
        &self,
        tokens: &[u32],
        rows: &DecodingRows,
        decoding: &Decoding,
        draft: Option<&Draft>,
    ) -> Result<Tensor> {
        let reader = draft.map_or(&decoding.reader, |draft| &draft.reader);
        let input_ids = Tensor::new(tokens, self.device())?.unsqueeze(1)?;
        self.logits_of(reader, &input_ids, rows, &decoding.caches)
    }

    /// Logits after the last of `input_ids` `(sequences, new)`, the newest tokens of `rows`.
    fn logits_of(
        &self,
        reader: &DecoderWithHead,
        input_ids: &Tensor,
        rows: &DecodingRows,
        caches: &[KeyValueCache],
    ) -> Result<Tensor> {
        let pass = Pass::inference();
        let (sequences, new) = input_ids.dims2()?;
        let positions: Vec<u32> =
            rows.lengths().flat_map(|length| length - new..length).map(|at| at as u32).collect();
        let positions = Tensor::new(positions, self.device())?;
        let positions = pass.parameter(&self.position_embeddings).index_select(&positions, 0)?;
        let text = self.embed(input_ids, &positions.reshape((sequences, new, ()))?, &pass)?;
        let hidden_states = reader.decoder.step(&text, caches, rows)?;
        let last = hidden_states.narrow(1, new - 1, 1)?.squeeze(1)?;
        Ok(reader.lm_head.forward(&last.contiguous()?, &pass)?)
    }
}

impl Decoding {
    /// Makes sequence `i` what sequence `parents[i]` was: sequences may go on in several ways, change places and end.
    ///
    /// # Errors
    /// If there is no such sequence.
    pub fn reorder(&mut self, parents: &[usize]) -> Result<()> {
        Ok(self.rows.reorder(parents)?)
    }
}
