//! BLIP's configuration as a `CaptionConfig`.

use caption_model::{CaptionConfig, ModelTokens};

use crate::{BlipConfig, BlipTask};

impl CaptionConfig for BlipConfig {
    fn tokens(&self) -> ModelTokens {
        let text = &self.text_config;
        ModelTokens {
            vocab_size: text.vocab_size,
            start_token: text.bos_token_id,
            end_tokens: vec![text.sep_token_id],
            max_length: text.max_position_embeddings,
        }
    }

    fn image_size(&self) -> usize {
        self.vision_config.image_size
    }

    fn feature_shape(&self) -> (usize, usize) {
        (self.vision_config.tokens(), self.vision_config.hidden_size)
    }

    fn vision_identity(&self) -> String {
        format!("{:?}", self.vision_config)
    }

    fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize {
        let (text, vision) = (&self.text_config, &self.vision_config);
        // Per text token of a layer: 18 times its width, 1.5 times the feed-forward block's, and the probabilities of
        // cross-attention; per image token, keys and values.
        let per_token = 18 * text.hidden_size + 3 * text.intermediate_size / 2;
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
        let per_token = 12 * vision.hidden_size + 3 * vision.intermediate_size / 2;
        let probabilities = vision.num_attention_heads * vision.tokens();
        let encoder = vision.num_hidden_layers * vision.tokens() * (per_token + probabilities);
        if vision_trains { decoder + encoder } else { decoder }
    }

    fn decoder_weights(&self) -> usize {
        let text = &self.text_config;
        let (width, inner) = (text.hidden_size, text.intermediate_size);
        // Cross-attention counts with its query and output only: keys and values are computed once for a picture.
        let layer = 4 * width * width + 2 * width * width + 2 * width * inner;
        text.num_hidden_layers * layer + width * width + width * text.vocab_size
    }
}
