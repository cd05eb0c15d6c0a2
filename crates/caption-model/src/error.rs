use std::path::PathBuf;

use train_ops::Renaming;

use crate::draft::DecoderShape;

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the checkpoint is missing.
    #[error("{} has no {wanted}; a checkpoint is a folder with config.json and its weights", dir.display())]
    Missing {
        /// The checkpoint's folder.
        dir: PathBuf,
        /// The file, or files of which one is needed.
        wanted: &'static str,
    },
    /// A call of [`encode_images`](crate::CaptionModel::encode_images) after
    /// [`release_image_encoder`](crate::CaptionModel::release_image_encoder).
    #[error("the image encoder was released; load the model again to encode more pictures")]
    ImageEncoderReleased,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// A JSON file of another form.
    #[error("{} cannot be parsed", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A configuration that this crate does not implement.
    #[error("{}: {field} is {got}, but only {supported} is supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The option.
        field: &'static str,
        /// Its value.
        got: String,
        /// The values that are supported.
        supported: String,
    },
    /// A weights file is damaged.
    #[error("{} is damaged or not a weights file: {reason}; download or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A file is the pointer that Git leaves where a large file was not downloaded.
    #[error("{} is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file of PyTorch cannot be read.
    #[error(transparent)]
    TorchFile(#[from] torch_files::Error),
    /// The checkpoint's tensors are those of the model, except for a prefix that all of their names have or
    /// lack.
    #[error("{} does not hold the weights of its config.json under their names: {renaming}", path.display())]
    Renamed {
        /// The folder.
        path: PathBuf,
        /// The missing and the unexpected names.
        renaming: Renaming,
    },
    /// The checkpoint's tensors do not fit its configuration.
    #[error("{} does not hold the weights of its config.json:{}", path.display(), list(problems))]
    Tensors {
        /// The file or folder.
        path: PathBuf,
        /// Every tensor that is missing, unexpected or misshapen, one sentence each.
        problems: Vec<String>,
    },
    /// An input does not have the shape that the model needs.
    #[error("{input}: expected shape {expected}, got {got:?}")]
    Shape {
        /// Which input.
        input: &'static str,
        /// The shape that it should have.
        expected: String,
        /// The shape that it has.
        got: Vec<usize>,
    },
    /// A text with more tokens than the model has positions.
    #[error("{got} text tokens, but the model has positions for {max}; shorten the caption or the prompt")]
    TooLong {
        /// Tokens of the text.
        got: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// A model for questions was given a picture without a question.
    #[error("the model answers questions about pictures, and {} no question; give it one as the prompt", match row {
        Some(row) => format!("row {row} of the batch (from 0) has"),
        None => "there is".to_owned(),
    })]
    NoQuestion {
        /// The row of a training batch; `None` in generation, where all pictures have the same question.
        row: Option<usize>,
    },
    /// A token that is not in the model's vocabulary.
    #[error("token {id} does not exist: the model's vocabulary has {vocabulary}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// `vocab_size`.
        vocabulary: usize,
    },
    /// Decoding options or a prompt that do not fit the model, or logits that are not numbers.
    #[error(transparent)]
    Generation(#[from] caption_generation::Error),
    /// A draft of a model whose decoder has another shape.
    #[error("the draft belongs to another model, which has {draft}; this model has {model}")]
    DraftShape {
        /// The shape of the draft.
        draft: DecoderShape,
        /// The shape of the model.
        model: DecoderShape,
    },
    /// A draft of a model that is not on the CPU.
    #[error(
        "a draft needs a model on the CPU: 8-bit weights exist only there, where decoding is limited by memory bandwidth"
    )]
    DraftDevice,
    /// A live sequence that does not exist.
    #[error("sequence {parent} (from 0) does not exist: {sequences} sequences are live")]
    UnknownSequence {
        /// The sequence.
        parent: usize,
        /// How many there are.
        sequences: usize,
    },
    /// Steps to accept that were not verified.
    #[error("{accepted} steps cannot be accepted: {steps} were verified, and at least 1 has to be accepted")]
    UnknownStep {
        /// Steps to accept.
        accepted: usize,
        /// Steps that were verified last.
        steps: usize,
    },
    /// A layer could not be built or applied.
    #[error(transparent)]
    Layer(#[from] train_ops::Error),
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}
