use std::fmt;
use std::sync::Arc;

use train_ops::LinearLayer;

use crate::TextDecoder;

/// A function that replaces a linear layer by another.
pub type LayerMap = fn(&Arc<dyn LinearLayer>) -> train_ops::Result<Arc<dyn LinearLayer>>;

/// The model's decoder and head in 8 bits, which proposes tokens in speculative decoding (Leviathan et al., 2023,
/// <https://arxiv.org/abs/2211.17192>); see [`generate_with`](crate::CaptionModel::generate_with).
///
/// A decoding step takes as long as reading the weights from memory, for one token or for several. A draft
/// reads a quarter of the bytes. The whole model then verifies the proposed tokens in one step.
///
/// If the model's layers are frozen, with adapters or without, in f32, bf16 or 8 bits, the proposals do not
/// change the captions by a bit, because the results of a row do not depend on the other rows. The draft uses a
/// layer of another kind unchanged. Such a layer makes drafting slower, and may round several rows differently
/// from one.
#[derive(Debug)]
pub struct Draft {
    pub(crate) decoder: Box<dyn TextDecoder>,
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

impl fmt::Display for DecoderShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, hidden_size, vocab_size } = self;
        write!(f, "{layers} layers, hidden size {hidden_size} and a vocabulary of {vocab_size}")
    }
}
