/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight does not have the shape that its layer needs.
    #[error("{path}: expected shape {expected}, got {got:?}")]
    Shape {
        /// Dotted path of the tensor, or the name of the operation's argument.
        path: String,
        /// The shape that it should have, in words or numbers.
        expected: String,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// A probability outside `[0, 1)`.
    #[error("dropout probability of {path} must be in [0, 1), got {got}")]
    Probability {
        /// The dropout layer.
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
    /// A layer with cross-attention whose norms come before attention and MLP.
    #[error(
        "a decoder layer with cross-attention needs its norms after the sums, as in BERT: set norm_first to false"
    )]
    NormFirst,
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
    /// A file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The kernels' instruction set cannot be selected.
    #[error(transparent)]
    Isa(#[from] cpu_kernels::Error),
    /// An int8 layer was requested on a device without int8 kernels, or applied to activations that are not f32
    /// on the CPU.
    #[error(
        "{path}: int8 weights need f32 activations on the CPU, got {dtype:?} on {device}; use f32 or bf16 weights"
    )]
    Int8 {
        /// Dotted path of the layer.
        path: String,
        /// Type of the weight or the activations.
        dtype: candle_core::DType,
        /// Their device.
        device: String,
    },
    /// A layer is too large for products of integers, whose sums have 32 bits.
    #[error("{path}: int8 products have room for {limit} features, got {features}; use f32 or bf16 weights")]
    Int8Size {
        /// Dotted path of the layer.
        path: String,
        /// Its input or output features, whichever are more.
        features: usize,
        /// The most that there can be.
        limit: usize,
    },
    /// A sequence should continue one that does not exist.
    #[error("sequence {parent} does not exist: {sequences} are being decoded")]
    Sequence {
        /// The number of the requested sequence.
        parent: usize,
        /// Number of sequences.
        sequences: usize,
    },
    /// Rows whose numbers are on a device ([`DecodingRows::with_numbers`](crate::DecodingRows::with_numbers)) were used without a
    /// kernel that reads them there.
    #[error(
        "{operation}: there is no kernel that reads rows on the device, for tensors of {dtype:?} on {device}"
    )]
    RowsOnDevice {
        /// The operation.
        operation: &'static str,
        /// The type of the tensors.
        dtype: candle_core::DType,
        /// Their device.
        device: String,
    },
    /// The same checkpoint path was requested twice.
    #[error("{path} was built twice; every layer and parameter of a model needs a path of its own")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// A builder from another crate refused a layer.
    #[error("cannot build {path}")]
    Build {
        /// Dotted path of the layer.
        path: String,
        /// Why the builder refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer from another crate refused its input.
    #[error("the layer {path} refused its input")]
    Layer {
        /// Dotted path of the layer.
        path: String,
        /// Why the layer refused.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot of a layer was used in training, or on another device or type.
    #[error(
        "{path} is a snapshot, for inference on f32 activations in host memory: use the layer that it was made from"
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
