use std::fmt;
use std::sync::Arc;

use train_ops::{LinearLayer, int8_snapshot};

use crate::decoder::{Decoder, LayerMap};
use crate::{Error, GitForCausalLm, Result};

/// The model's decoder and head in 8 bits, which proposes tokens in speculative decoding (Leviathan et al., 2023,
/// <https://arxiv.org/abs/2211.17192>); see [`generate_with`](GitForCausalLm::generate_with).
///
/// A decoding step takes as long as the weights take to arrive from memory, for one token or for several. A draft reads a
/// quarter of the bytes; the whole model then reads the tokens that it proposes in one step, and says which are right.
///
/// The proposals do not change the captions by a bit where the model's layers are frozen, with adapters or without, in f32,
/// bf16 or 8 bits: there, a row's results do not depend on the rows that are computed with it. A layer of another kind is
/// used in the draft as it is, so that nothing is gained, and may round several rows differently from one.
#[derive(Debug)]
pub struct Draft {
    pub(crate) layers: DecoderWithHead,
}

/// A decoder and its head as they were at one time, but for trainable layers, which stay current.
#[derive(Debug)]
pub(crate) struct DecoderWithHead {
    pub(crate) decoder: Decoder,
    pub(crate) lm_head: Arc<dyn LinearLayer>,
}

impl DecoderWithHead {
    pub(crate) fn of(model: &GitForCausalLm, map: LayerMap) -> Result<Self> {
        Ok(Self { decoder: model.decoder.map_linear(map)?, lm_head: map(&model.lm_head)? })
    }
}

/// The sizes that a draft has to share with its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderShape {
    /// Number of layers.
    pub layers: usize,
    /// Width of the decoder.
    pub hidden_size: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
}

impl DecoderShape {
    fn of(decoder: &Decoder, lm_head: &dyn LinearLayer) -> Self {
        Self {
            layers: decoder.layers(),
            hidden_size: lm_head.in_features(),
            vocab_size: lm_head.out_features(),
        }
    }
}

impl fmt::Display for DecoderShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, hidden_size, vocab_size } = self;
        write!(f, "{layers} layers, hidden size {hidden_size} and a vocabulary of {vocab_size}")
    }
}

impl GitForCausalLm {
    /// A draft of the model with its adapters as they are now, for [`generate_with`](Self::generate_with).
    ///
    /// # Errors
    /// If the model is not on the CPU, as 8-bit weights exist only there.
    pub fn draft(&self) -> Result<Draft> {
        if !self.device().is_cpu() {
            return Err(Error::DraftDevice);
        }
        Ok(Draft { layers: DecoderWithHead::of(self, int8_snapshot)? })
    }

    /// Number of weights that a decoding step multiplies by: those of the decoder's layers and of the head.
    pub fn decoder_weights(&self) -> usize {
        let config = self.config();
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        config.num_hidden_layers * (4 * width * width + 2 * width * inner) + width * config.vocab_size
    }

    /// Checks that `draft` comes from a model of this one's shape.
    pub(crate) fn check_draft(&self, draft: &Draft) -> Result<()> {
        let draft = DecoderShape::of(&draft.layers.decoder, draft.layers.lm_head.as_ref());
        let model = DecoderShape::of(&self.decoder, self.lm_head.as_ref());
        if draft == model { Ok(()) } else { Err(Error::DraftShape { draft, model }) }
    }
}
