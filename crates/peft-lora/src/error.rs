use std::path::PathBuf;

use candle_core::DType;
use train_ops::Renaming;

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option of [`LoraConfig`](crate::LoraConfig) has an invalid value.
    #[error("LoRA option {option}: {problem}")]
    InvalidOption {
        /// Name of the option, as in `adapter_config.json`.
        option: &'static str,
        /// What is wrong with its value, and which values are valid.
        problem: String,
    },
    /// Names or patterns that select nothing in the model.
    #[error("{}", lines(.0))]
    Unmatched(Vec<Unmatched>),
    /// The targets select modules that cannot be adapted.
    #[error(
        "target_modules selects what is no linear layer, and only linear layers can be adapted: {}; \
         name the layers more exactly, or list these in exclude_modules",
        .0.join(", ")
    )]
    NotLinear(Vec<String>),
    /// The targets and the other options leave no layer to adapt.
    #[error(
        "no layer is left to adapt: target_modules selects none that exclude_modules and \
         layers_to_transform leave"
    )]
    NothingSelected,

    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file or its folder cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not a LoRA configuration that this crate supports.
    #[error("{path} cannot be used")]
    Config {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A PyTorch file cannot be read.
    #[error(transparent)]
    TorchFile(#[from] torch_files::Error),
    /// A file is a Git LFS pointer: the large file itself was not downloaded.
    #[error("{path} is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The names of all tensors in the weight file differ from the model's by the same part.
    #[error("{path} does not fit the model by its names: {renaming}")]
    Renamed {
        /// The file.
        path: PathBuf,
        /// The part that the names have too much or too little.
        renaming: Renaming,
    },
    /// The weight file holds several adapters.
    #[error("{path} holds several adapters ({}), and is read where it holds one; save each to a folder of its own", names.join(", "))]
    SeveralAdapters {
        /// The file.
        path: PathBuf,
        /// The names of the adapters.
        names: Vec<String>,
    },
    /// The weight file is damaged.
    #[error("{path} is not a complete safetensors file")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: candle_core::Error,
    },
    /// The tensors of the weight file do not fit this model and configuration.
    #[error("{path} does not fit the model and its configuration:{}", Keys { missing, unexpected, misshapen })]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Tensors that the model needs and the file does not have.
        missing: Vec<String>,
        /// Tensors of the file that the model does not have.
        unexpected: Vec<String>,
        /// Tensors whose shapes differ from the model's.
        misshapen: Vec<Misshapen>,
    },
    /// An adapter tensor does not hold floating-point numbers.
    #[error("{path}: {name} is stored as {got:?}; adapters are f32, bf16 or f16")]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        got: DType,
    },
    /// The files' configuration scales the update differently from the adapter in memory.
    #[error(
        "{path}: the scale of {module} is {got} in the file and {expected} in this adapter; \
         build the adapter from the file's configuration with LoraBuilder::from_pretrained"
    )]
    Scale {
        /// The file.
        path: PathBuf,
        /// The first layer where they differ.
        module: String,
        /// Scale of the adapter in memory.
        expected: f64,
        /// Scale according to the file's configuration.
        got: f64,
    },

    /// A tensor holds NaN or an infinity; nothing was changed.
    #[error("cannot {action}: {tensor} holds NaN or infinite values")]
    NotFinite {
        /// The operation that failed: `save`, `load`, `merge`.
        action: &'static str,
        /// The tensor.
        tensor: String,
    },
    /// The adapter is already merged into the base.
    #[error("the adapter is merged already; unmerge it first")]
    AlreadyMerged,
    /// The adapter is not merged into the base.
    #[error("the adapter is not merged, so there is nothing to undo")]
    NotMerged,
    /// An operation that needs an unmerged adapter was called while it was merged.
    #[error("cannot {action} while the adapter is merged into {path}; unmerge it first")]
    Merged {
        /// The operation.
        action: &'static str,
        /// The merged layer.
        path: String,
    },

    /// A layer could not be built or run.
    #[error(transparent)]
    Layer(#[from] train_ops::Error),
    /// An operation of candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A name, pattern or index of the configuration that selects nothing in the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {pattern} matches no {what}{}", suggestion(candidates))]
pub struct Unmatched {
    /// The option: `target_modules`, `rank_pattern`, ...
    pub option: &'static str,
    /// The entry that matched nothing, as the user wrote it.
    pub pattern: String,
    /// The kind of names that it was compared with: `linear layer`, `adapted layer`, ...
    pub what: &'static str,
    /// Similar names of the model, the most similar first.
    pub candidates: Vec<String>,
}

/// A tensor whose shape is not the one that the model needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: expected {expected:?}, got {got:?}")]
pub struct Misshapen {
    /// The tensor.
    pub name: String,
    /// Shape according to model and configuration.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub got: Vec<usize>,
}

fn suggestion(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        _ => format!("; the model has {}", candidates.join(", ")),
    }
}

fn lines(items: &[Unmatched]) -> String {
    items.iter().map(Unmatched::to_string).collect::<Vec<_>>().join("\n")
}

/// Lists the problems with the tensors of a file, one per line.
struct Keys<'a> {
    missing: &'a [String],
    unexpected: &'a [String],
    misshapen: &'a [Misshapen],
}

impl std::fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.missing.iter().try_for_each(|name| write!(f, "\n  missing {name}"))?;
        self.unexpected.iter().try_for_each(|name| write!(f, "\n  unexpected {name}"))?;
        self.misshapen.iter().try_for_each(|tensor| write!(f, "\n  misshapen {tensor}"))
    }
}
