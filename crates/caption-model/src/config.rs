use std::fmt::Debug;

use caption_generation::ModelTokens;

/// The part of a captioning model's configuration that prompts, pictures, caches and memory depend on.
pub trait CaptionConfig: Debug + Send + Sync {
    /// The properties of the model that prompts, captions and decoding options have to fit.
    fn tokens(&self) -> ModelTokens;

    /// Height and width of a picture in pixels.
    fn image_size(&self) -> usize;

    /// Tokens and width of a picture's features.
    fn feature_shape(&self) -> (usize, usize);

    /// A text that identifies the configuration of the vision encoder, for caches of its features.
    fn vision_identity(&self) -> String;

    /// The estimated count of numbers that a training pass saves for the backward pass, for one picture with a
    /// caption of `caption` tokens. `vision_trains` is whether the vision encoder is trained too.
    fn saved_activations(&self, caption: usize, vision_trains: bool) -> usize;

    /// Number of weights that a decoding step reads: those of the decoder's layers and of the head.
    fn decoder_weights(&self) -> usize;
}
