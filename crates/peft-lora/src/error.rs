use std::path::PathBuf;

use candle_core::DType;
use train_ops::Renaming;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option of [`LoraConfig`](crate::LoraConfig) holds a value that LoRA cannot work with.
    #[error("LoRA option {option}: {problem}")]
    InvalidOption {
        /// Name of the option, as in `adapter_config.json`.
        option: &'static str,
        /// What is wrong with its value, and what would be right.
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
    /// The targets and the other options leave no layer.
    #[error(
        "no layer is left to adapt: target_modules selects none that exclude_modules and \
         layers_to_transform leave"
    )]
    NothingSelected,

    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file or its folder cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// `adapter_config.json` is not a configuration of LoRA as this crate supports it.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file of PyTorch cannot be read.
    #[error(transparent)]
    TorchFile(#[from] torch_files::Error),
    /// A file is the pointer that Git leaves where a large file was not downloaded.
    #[error("{path} is a Git LFS pointer and not the file itself: run `git lfs pull` in its folder")]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The weight file's tensors are those of the model, but for a part that all of their names have or lack.
    #[error("{path} does not fit the model by its names: {renaming}")]
    Renamed {
        /// The file.
        path: PathBuf,
        /// What the names have too much or too little.
        renaming: Renaming,
    },
    /// The weight file holds several adapters.
    #[error("{path} holds several adapters ({}), and is read where it holds one; save each to a folder of its own", names.join(", "))]
    SeveralAdapters {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// The weight file is damaged.
    #[error("{path} is not a complete safetensors file: {source}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: candle_core::Error,
    },
    /// The tensors of the weight file are not those of this model and configuration.
    #[error("{path} does not fit the model and its configuration:{}", Keys { missing, unexpected, misshapen })]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Tensors that the model needs and the file lacks.
        missing: Vec<String>,
        /// Tensors that the file holds and the model has no place for.
        unexpected: Vec<String>,
        /// Tensors of another shape than the model's.
        misshapen: Vec<Misshapen>,
    },
    /// An adapter tensor is not made of floating-point numbers.
    #[error("{path}: {name} is stored as {got:?}; adapters are f32, bf16 or f16")]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        got: DType,
    },
    /// An adapter on disk scales its update differently from the adapter in memory.
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
        /// Scale by the file's configuration.
        got: f64,
    },

    /// A tensor holds NaN or an infinity; nothing was changed.
    #[error("cannot {action}: {tensor} holds NaN or infinite values")]
    NotFinite {
        /// What was about to happen: `save`, `load`, `merge`.
        action: &'static str,
        /// The tensor.
        tensor: String,
    },
    /// The adapter is merged into the base already.
    #[error("the adapter is merged already; unmerge it first")]
    AlreadyMerged,
    /// The adapter is not merged into the base.
    #[error("the adapter is not merged, so there is nothing to undo")]
    NotMerged,
    /// Something that needs the adapter apart from the base was asked for while it was merged.
    #[error("cannot {action} while the adapter is merged into {path}; unmerge it first")]
    Merged {
        /// What was asked for.
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
    /// The entry that matched nothing, as it was given.
    pub pattern: String,
    /// What it was looked for among: `linear layer`, `adapted layer`, ...
    pub what: &'static str,
    /// What the model has instead, the most similar first.
    pub candidates: Vec<String>,
}

/// A tensor whose shape is not the one that the model needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: expected {expected:?}, got {got:?}")]
pub struct Misshapen {
    /// The tensor.
    pub name: String,
    /// Shape by model and configuration.
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

/// Lists what is wrong with the tensors of a file, one a line.
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
