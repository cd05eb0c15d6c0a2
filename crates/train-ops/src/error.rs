/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight does not have the shape that its layer needs.
    #[error("{path}: expected shape {expected}, got {got:?}")]
    Shape {
        /// Dotted path of the tensor, or the name of the operation's argument.
        path: String,
        /// What the shape should have been, in words or numbers.
        expected: String,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// A probability outside `[0, 1)`.
    #[error("dropout probability of {path} must be in [0, 1), got {got}")]
    Probability {
        /// The layer that was given the probability.
        path: String,
        /// The value.
        got: f32,
    },
    /// The samples of a training pass do not divide the tensor that dropout is applied to.
    #[error(
        "dropout at {path}: a tensor of shape {shape:?} cannot be divided among {samples} samples; \
         pass one sample key for each sample of the batch"
    )]
    Samples {
        /// The dropout layer.
        path: String,
        /// Shape of its input.
        shape: Vec<usize>,
        /// Sample keys in the pass.
        samples: usize,
    },
    /// A target of the cross entropy that is not in the vocabulary.
    #[error("target {target} is not in the vocabulary of {vocabulary} tokens")]
    Target {
        /// The target's id.
        target: u32,
        /// Number of logits in a row.
        vocabulary: usize,
    },
    /// A share of label smoothing outside `[0, 1)`.
    #[error("label smoothing must be in [0, 1), got {got}; 0 is none and 0.1 is usual")]
    LabelSmoothing {
        /// The share.
        got: f32,
    },
    /// A file cannot be opened or mapped into memory.
    #[error("cannot map {}: {source}", path.display())]
    Map {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pool of threads was set up before.
    #[error("cannot set the number of threads: {source}; do it once, before anything is computed")]
    Threads {
        /// What the pool's builder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The same checkpoint path was asked for twice.
    #[error("{path} was built twice; every layer and parameter of a model needs a path of its own")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// A builder from another crate refused a layer.
    #[error("cannot build {path}: {source}")]
    Build {
        /// Dotted path of the layer.
        path: String,
        /// Why the builder refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer from another crate refused its input.
    #[error("{path}: {source}")]
    Layer {
        /// Dotted path of the layer.
        path: String,
        /// Why the layer refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot of a layer was asked to train, or to work on another device or type.
    #[error(
        "{path} is a snapshot for inference on f32 activations in host memory: use the layer it was made of"
    )]
    Snapshot {
        /// Dotted path of the layer.
        path: String,
    },
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
