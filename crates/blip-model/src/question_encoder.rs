use candle_core::Tensor;
use caption_model::Loader;
use train_ops::{DecoderLayer, DecoderMasks, ForwardContext, KeyLengths};

use crate::embeddings::Embeddings;
use crate::schema::QUESTION;
use crate::{Result, TextConfig, layer};

/// BLIP's question encoder: a BERT, whose tokens all attend to each other, with cross-attention to the image.
#[derive(Debug)]
pub(crate) struct QuestionEncoder {
    embeddings: Embeddings,
    layers: Vec<DecoderLayer>,
}

impl QuestionEncoder {
    pub(crate) fn load(config: &TextConfig, loader: &mut Loader<'_>) -> Result<Self> {
        let path = format!("{QUESTION}.embeddings");
        let words = loader.word_embedding(&format!("{path}.word_embeddings.weight"))?;
        Ok(Self {
            embeddings: Embeddings::load(config, &path, words, loader)?,
            layers: (0..config.num_hidden_layers)
                .map(|number| layer::load(config, &format!("{QUESTION}.encoder.layer.{number}"), loader))
                .collect::<Result<_>>()?,
        })
    }

    /// The states `(batch, tokens, hidden)` of questions `(batch, tokens)` about pictures with these features.
    /// `lengths` has the number of tokens of each question; `None` if no question is padded.
    pub(crate) fn forward(
        &self,
        image_features: &Tensor,
        questions: &Tensor,
        lengths: Option<&KeyLengths>,
        ctx: &ForwardContext,
    ) -> Result<Tensor> {
        let masks = DecoderMasks { text_lengths: lengths.cloned(), ..DecoderMasks::default() };
        let text = self.embeddings.forward(questions, ctx)?;
        layer::forward_all(&self.layers, &text, image_features, &masks, ctx)
    }
}
