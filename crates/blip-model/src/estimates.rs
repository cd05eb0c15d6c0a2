//! Estimates of a model's costs, from its configuration.

use crate::{BlipConfig, BlipTask};

impl BlipConfig {
    /// Estimated numbers that a training pass saves for the backward pass, for one picture with a caption of `caption` tokens;
    /// `vision_trains` is whether the vision encoder is trained too.
    pub fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize {
        let (text, vision) = (&self.text_config, &self.vision_config);
        // Per text token of a layer: 18 times its width, 2.5 times the feed-forward block's, and the probabilities of
        // cross-attention; per image token, keys and values.
        let per_token = 18 * text.hidden_size + 5 * text.intermediate_size / 2;
        let probabilities = text.num_attention_heads * vision.tokens();
        let per_layer = caption * (per_token + probabilities) + 2 * vision.tokens() * text.hidden_size;
        // For questions, the encoder attends to the image tokens and the decoder to the question, of at most `caption` tokens.
        let answers = match self.task() {
            BlipTask::Captions => 0,
            BlipTask::Questions => {
                let probabilities = text.num_attention_heads * caption;
                text.num_hidden_layers * caption * (per_token + probabilities + 2 * text.hidden_size)
            }
        };
        let decoder = text.num_hidden_layers * per_layer + answers;
        let per_token = 12 * vision.hidden_size + 5 * vision.intermediate_size / 2;
        let probabilities = vision.num_attention_heads * vision.tokens();
        let encoder = vision.num_hidden_layers * vision.tokens() * (per_token + probabilities);
        if vision_trains { decoder + encoder } else { decoder }
    }

    /// Number of weights that a decoding step multiplies by: those of the decoder's layers and of the head.
    pub(crate) fn decoder_weights(&self) -> usize {
        let text = &self.text_config;
        let (width, inner) = (text.hidden_size, text.intermediate_size);
        // Of cross-attention, the query and the output: keys and values are computed once for a picture.
        let layer = 4 * width * width + 2 * width * width + 2 * width * inner;
        text.num_hidden_layers * layer + width * width + width * text.vocab_size
    }
}
