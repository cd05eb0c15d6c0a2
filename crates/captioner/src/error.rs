use std::path::PathBuf;

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A picture file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A file is not a complete picture of a supported format.
    #[error("{} is not a picture that can be used", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: caption_data::Error,
    },
    /// A tokenizer with tokens that the model does not have.
    #[error(
        "the tokenizer has {tokenizer} tokens, but the model's vocabulary has {model}: they belong to different models"
    )]
    Vocabulary {
        /// Number of tokens of the tokenizer.
        tokenizer: usize,
        /// Number of tokens of the model.
        model: usize,
    },
    /// An image processor whose pictures do not have the model's size.
    #[error(
        "the image processor makes pictures of {processor:?} pixels, but the model needs ({model}, {model})"
    )]
    ImageSize {
        /// Height and width of the processor's pictures.
        processor: (usize, usize),
        /// Height and width of the model's pictures.
        model: usize,
    },
    /// The model could not be loaded or run, or decoding options do not fit it.
    #[error(transparent)]
    Model(#[from] caption_model::Error),
    /// The tokenizer or the image processor could not be loaded or used.
    #[error(transparent)]
    Data(#[from] caption_data::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
