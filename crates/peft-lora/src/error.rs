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
        /// The fault of its value, and the valid values.
        problem: String,
    },
    /// Names or patterns that select nothing in the model.
    #[error("{}", lines(.0))]
    Unmatched(Vec<Unmatched>),
    /// The targets select modules that cannot be adapted.
    #[error(
        "target_modules selects modules that cannot be adapted: {}; \
         name the layers more exactly, or list these in exclude_modules",
        .0.join(", ")
    )]
    NotLinear(Vec<String>),
    /// The targets and the other options leave no layer to adapt.
    #[error(
        "no layer is left to adapt: exclude_modules and layers_to_transform exclude all layers that target_modules selects"
    )]
    NothingSelected,

    /// The rank is too large for an initialisation that decomposes the weight.
    #[error(
        "{path}: a rank of {rank} is more than PiSSA and OLoRA can take from its weight, at most {max}; set a smaller one for \
         this layer with rank_pattern, or exclude the layer"
    )]
    Rank {
        /// The layer.
        path: String,
        /// The requested rank.
        rank: usize,
        /// The smaller dimension of the weight.
        max: usize,
    },
    /// A layer cannot be adapted in this way.
    #[error("{path}: {problem}")]
    Unsupported {
        /// The layer.
        path: String,
        /// The unsupported option, and a way out.
        problem: String,
    },
    /// A row of a weight is zero, and DoRA divides by its norm.
    #[error(
        "{path}: row {row} of the weight is zero, and use_dora divides by the norm of each row; exclude the layer"
    )]
    ZeroRow {
        /// The layer.
        path: String,
        /// The row.
        row: usize,
    },

    /// A model has no adapter of this name.
    #[error("there is no adapter {name}; the model has {}", known.join(", "))]
    UnknownAdapter {
        /// The name.
        name: String,
        /// The adapters that there are.
        known: Vec<String>,
    },
    /// A model has an adapter of this name already.
    #[error("there is an adapter {name} already; choose another name, or use hot_swap to replace it")]
    AdapterExists {
        /// The name.
        name: String,
    },
    /// The name is reserved for the model without adapters.
    #[error(
        "an adapter cannot be called {name}, the name of the model without adapters; choose another name"
    )]
    ReservedName {
        /// The name.
        name: String,
    },
    /// Two active adapters would replace the same weight or bias.
    #[error(
        "the adapters {} and {} both replace {parameter} (modules_to_save or bias), so only one of them can be active",
        adapters[0], adapters[1]
    )]
    TrainedTwice {
        /// The parameter, by its name in the model.
        parameter: String,
        /// The two adapters.
        adapters: [String; 2],
    },
    /// An adapter trains a parameter outside the linear layers, which the model owns.
    #[error(
        "{action}: {parameter} is outside the model's linear layers, and only the adapter that the model was built with \
         can train it (modules_to_save or bias); build the model with that adapter's configuration"
    )]
    OutsideLayers {
        /// The operation that failed.
        action: String,
        /// The first such parameter.
        parameter: String,
    },
    /// Adapters cannot be combined.
    #[error("cannot combine {adapter}: {problem}")]
    Combination {
        /// The adapter that is the reason, or the new one.
        adapter: String,
        /// The fault, and a way out.
        problem: String,
    },
    /// Adapters were selected by sample in a training pass.
    #[error(
        "adapters cannot be selected by sample in a training pass; activate the one that is to be trained"
    )]
    AdaptersInTraining,
    /// The number of adapter names does not divide the batch.
    #[error(
        "an input of shape {shape:?} cannot be divided among {samples} adapter names; pass one name for each sample of the batch"
    )]
    AdapterNames {
        /// Number of names in the pass.
        samples: usize,
        /// Shape of the layer's input.
        shape: Vec<usize>,
    },

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
        /// The prefix that the names should not have, or lack.
        renaming: Renaming,
    },
    /// The weight file holds several adapters.
    #[error("{path} holds several adapters ({}), and only files with one can be read; save each to its own folder", names.join(", "))]
    SeveralAdapters {
        /// The file.
        path: PathBuf,
        /// The names of the adapters.
        names: Vec<String>,
    },
    /// The files hold an adapter for a residual that cannot be computed again.
    #[error(
        "{path}: init_lora_weights = {init}, whose changed base depends on random numbers, so that the adapter fits no available \
         base; save it with PEFT's path_initial_model_for_weight_conversion, or from the program that trained it"
    )]
    RandomInitialisation {
        /// The configuration file.
        path: PathBuf,
        /// The initialisation.
        init: String,
    },
    /// The files hold a frozen weight that is not the base model's.
    #[error(
        "{path}: {name} is not the weight of this base model; the adapter was made for another base, or for one whose embedding was \
         resized or trained: open it with that base"
    )]
    OtherBase {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
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
    /// An adapter adds a bias to a layer that has none in the base model.
    #[error(
        "{path} has no bias in the base model that the adapter's lora_bias could be merged into; use the adapter as it is"
    )]
    NoBias {
        /// The layer.
        path: String,
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
