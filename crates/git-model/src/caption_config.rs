//! GIT's configuration as a `CaptionConfig`.

use caption_model::{CaptionConfig, ModelTokens};

use crate::GitConfig;

impl CaptionConfig for GitConfig {
    fn tokens(&self) -> ModelTokens {
        ModelTokens {
            vocab_size: self.vocab_size,
            start_token: self.bos_token_id,
            end_tokens: self.eos_token_id.clone(),
            max_length: self.max_position_embeddings,
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

    /// The estimate for the decoder of git-base is 0.08 GB in f32; 0.09 GB are measured.
    fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize {
        let vision = &self.vision_config;
        // Saved values per token of a layer: ten times its width and 1.5 times the feed-forward block's.
        let layer = |width: usize, intermediate: usize| 10 * width + 3 * intermediate / 2;
        let tokens = vision.tokens() + caption;
        let text = tokens * self.num_hidden_layers * layer(self.hidden_size, self.intermediate_size);
        let encoder =
            vision.tokens() * vision.num_hidden_layers * layer(vision.hidden_size, vision.intermediate_size);
        if vision_trains { text + encoder } else { text }
    }

    fn decoder_weights(&self) -> usize {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        self.num_hidden_layers * (4 * width * width + 2 * width * inner) + width * self.vocab_size
    }
}
