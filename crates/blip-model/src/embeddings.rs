use candle_core::Tensor;
use caption_model::{Loader, WordEmbedding};
use train_ops::{Dropout, ForwardContext, LayerNorm};

use crate::{Error, Result, TextConfig};

/// The input of a text encoder or decoder: `dropout(norm(word + position))`.
#[derive(Debug)]
pub(crate) struct Embeddings {
    words: WordEmbedding,
    /// `(positions, hidden)`.
    positions: Tensor,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Embeddings {
    /// The embeddings at `path` in the checkpoint, of which `words` is the word embedding.
    pub(crate) fn load(
        config: &TextConfig,
        path: &str,
        words: WordEmbedding,
        loader: &mut Loader<'_>,
    ) -> Result<Self> {
        Ok(Self {
            words,
            positions: loader.parameter(&format!("{path}.position_embeddings.weight"))?,
            norm: loader.layer_norm(&format!("{path}.LayerNorm"), config.layer_norm_eps)?,
            dropout: Dropout::new(&format!("{path}.dropout"), config.hidden_dropout_prob)?,
        })
    }

    /// Embeds texts `(batch, text)` from their first token on: `(batch, text, hidden)`.
    pub(crate) fn forward(&self, input_ids: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let (_, length) = input_ids.dims2()?;
        let max = self.positions.dim(0)?;
        if length > max {
            return Err(Error::TooLong { got: length, max });
        }
        self.embed(input_ids, &ctx.parameter(&self.positions).narrow(0, 0, length)?, ctx)
    }

    /// Embeds new tokens `(rows, new)` at the text positions `positions` of the same shape, in inference.
    pub(crate) fn at(&self, input_ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let (rows, new) = positions.dims2()?;
        let positions = self.positions.detach().index_select(&positions.flatten_all()?, 0)?;
        self.embed(input_ids, &positions.reshape((rows, new, ()))?, &ForwardContext::inference())
    }

    /// From position embeddings that broadcast to `(batch, text, hidden)`.
    fn embed(&self, input_ids: &Tensor, positions: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let (batch, length) = input_ids.dims2()?;
        let words = self.words.rows(input_ids, ctx)?.reshape((batch, length, ()))?;
        let embeddings = self.norm.forward(&words.broadcast_add(positions)?, ctx)?;
        Ok(self.dropout.forward(&embeddings, ctx)?)
    }
}
