//! Selects the layers of a captioning model that are trained, and adds the adapters.

mod initial;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Var};
use caption_model::{Architecture, CaptionCheckpoint, CaptionModel, LoadOptions};
use indicatif::HumanCount;
use peft_lora::{Adapter, BaseType, Bias, LoraBuilder, LoraConfig, Modules};
use train_ops::TrainableBuilder;

use crate::open::AdapterFolder;
use crate::options::{Dtype, Hardware, LoraOptions, TargetModules, Tune};

pub use initial::same_modules;

/// A model and its trainable parameters.
pub struct Adapted {
    /// The model.
    pub model: Box<dyn CaptionModel>,
    /// The adapter; `None` with full fine-tuning.
    pub adapter: Option<Adapter>,
    /// The adapter that the weights were read from; `None` for new ones, and for a resumed run.
    pub first_adapter: Option<AdapterFolder>,
    /// The trainable parameters, by name.
    pub parameters: BTreeMap<String, Var>,
    /// Number of parameters of the model, including the adapter.
    pub total: usize,
    /// Whether the text decoder is trained, or the projection from image features to it.
    pub text_trains: bool,
    /// Whether the vision encoder is trained, so that its features cannot be cached.
    pub vision_trains: bool,
}

impl Adapted {
    /// Number of trainable parameters.
    pub fn trainable(&self) -> usize {
        self.parameters.values().map(|parameter| parameter.elem_count()).sum()
    }

    /// `1,327,104 of 177,946,170 parameters (0.7458 %)`, the numbers that PEFT prints.
    pub fn summary(&self) -> String {
        let share = 100.0 * self.trainable() as f64 / self.total as f64;
        let [trainable, total] = [self.trainable(), self.total].map(|count| HumanCount(count as u64));
        format!("{trainable} of {total} parameters ({share:.4} %)")
    }
}

/// The base model of an adapter, as recorded in the adapter's configuration.
pub struct BaseModel<'a> {
    /// The name or the path.
    pub name: &'a str,
    /// The commit, for a model of the hub.
    pub revision: Option<&'a str>,
}

/// Builds the model that `--tune` and the adapter's options describe.
///
/// A resumed run does not read its `--init-adapter` again: `saved` is the adapter's configuration of that
/// run, and the weights come from the checkpoint.
///
/// The checkpoint is closed when the model is built, except for a frozen word embedding, which is read from
/// its file.
///
/// # Errors
/// If an adapter's targets match nothing, or match layers in the part of the model that `--tune` excludes, or
/// if the initial adapter is missing or disagrees with the options.
pub fn build(
    base: &BaseModel<'_>,
    checkpoint: Box<dyn CaptionCheckpoint>,
    options: &LoraOptions,
    saved: Option<&LoraConfig>,
    seed: u64,
    device: &Device,
    hardware: &Hardware,
) -> Result<Adapted> {
    let dtype = hardware.dtype;
    let load = LoadOptions {
        device: device.clone(),
        dtype: storage(dtype),
        hidden_dropout: options.hidden_dropout.map(|p| p as f32),
        gradient_checkpointing: hardware.gradient_checkpointing,
        decoding_graphs: !hardware.no_cuda_graph,
    };
    if options.tune == Tune::Full {
        require_trainable(dtype)?;
        return full(checkpoint.as_ref(), &load);
    }
    let first_adapter = match (&options.init_adapter, saved) {
        (Some(path), None) => Some(initial::open(path, base)?),
        _ => None,
    };
    let architecture = checkpoint.architecture();
    let config = config(base, architecture, options, saved, first_adapter.as_ref())?;
    let mut builder = LoraBuilder::new(config)?.seed(seed);
    if dtype == Dtype::Int8 {
        builder = builder.base(BaseType::Int8Products);
    }
    if let Some(layer) = architecture.output_layer {
        builder = builder.output_layer(layer);
    }
    let model = checkpoint.load_model(&mut builder, &load)?;
    drop(checkpoint);
    let adapter = builder.finish()?;
    if let Some(first) = &first_adapter {
        adapter.load_weights(&first.dir)?;
    }
    let (parameters, total) = (adapter.parameters(), adapter.report().total_parameters());
    let is_of_vision =
        |name: &String| name.trim_start_matches("base_model.model.").starts_with(architecture.vision_prefix);
    let vision_trains = parameters.keys().any(is_of_vision);
    let text_trains = !parameters.keys().all(is_of_vision);
    let reached = match (text_trains, vision_trains) {
        (true, true) => "both",
        (true, false) => "text",
        (false, _) => "vision",
    };
    // At least one part of the model has adapters: if the named part has none, the other part has.
    let left_alone = match options.tune {
        Tune::Text if vision_trains => Some(("vision encoder", "text")),
        Tune::Vision if text_trains => Some(("text decoder", "vision")),
        _ => None,
    };
    if let Some((part, tune)) = left_alone {
        if adapter.config().bias == Bias::All {
            bail!(
                "--bias all trains biases of the {part}, which --tune {tune} does not train: use --bias lora_only, or --tune \
                 {reached}"
            );
        }
        bail!(
            "the target modules select layers of the {part}, which --tune {tune} does not train: use --tune {reached}"
        );
    }
    let adapter = Some(adapter);
    Ok(Adapted { model, parameters, total, text_trains, vision_trains, adapter, first_adapter })
}

/// Refuses types of frozen weights for full fine-tuning, which freezes none.
fn require_trainable(dtype: Dtype) -> Result<()> {
    match dtype {
        Dtype::Int8 => bail!(
            "--dtype int8 stores frozen weights in 8 bits, and --tune full freezes none: leave it out, or train adapters with \
             --tune both"
        ),
        Dtype::Bf16 => bail!(
            "--dtype bf16 stores frozen weights in 16 bits, and --tune full freezes none: leave it out. It is trained in f32, and \
             the checkpoint is stored in the types of --model: start from a bf16 checkpoint for a bf16 one"
        ),
        _ => Ok(()),
    }
}

/// The model for full fine-tuning.
fn full(checkpoint: &dyn CaptionCheckpoint, load: &LoadOptions) -> Result<Adapted> {
    let mut builder = TrainableBuilder::new();
    let model = checkpoint.load_model(&mut builder, load)?;
    let parameters = builder.finish();
    let total = parameters.values().map(|parameter| parameter.elem_count()).sum();
    Ok(Adapted {
        model,
        adapter: None,
        first_adapter: None,
        parameters,
        total,
        text_trains: true,
        vision_trains: true,
    })
}

/// The adapter's configuration: a new one, or that of the `first` adapter with the changes that flags may make.
/// For a resumed run that began with an adapter, it is the `saved` one.
fn config(
    base: &BaseModel<'_>,
    architecture: &Architecture,
    options: &LoraOptions,
    saved: Option<&LoraConfig>,
    first: Option<&AdapterFolder>,
) -> Result<LoraConfig> {
    if let Some(path) = &options.init_adapter {
        let begun_with = match (first, saved) {
            (Some(first), _) => Some(initial::config(&first.dir)?),
            (None, saved) => saved.cloned(),
        };
        if let Some(config) = begun_with {
            return initial::agreed(config, path, base, options);
        }
    }
    let targets = options.target_modules.clone().map(modules);
    let Architecture { text_targets, vision_targets, .. } = architecture;
    let default: Vec<&str> = match options.tune {
        Tune::Text => text_targets.to_vec(),
        Tune::Vision => vision_targets.to_vec(),
        Tune::Both | Tune::Full => [*text_targets, *vision_targets].concat(),
    };
    Ok(LoraConfig {
        r: options.rank(),
        lora_alpha: options.alpha(),
        lora_dropout: options.dropout(),
        target_modules: targets.unwrap_or_else(|| default.as_slice().into()),
        init_lora_weights: options.init_lora_weights.unwrap_or_default(),
        use_rslora: options.use_rslora,
        use_dora: options.use_dora,
        lora_bias: options.lora_bias,
        bias: options.bias.unwrap_or_default(),
        modules_to_save: options.modules_to_save.clone(),
        task_type: architecture.task_type.map(str::to_owned),
        base_model_name_or_path: Some(base.name.to_owned()),
        revision: base.revision.map(str::to_owned),
        ..LoraConfig::default()
    })
}

fn modules(targets: TargetModules) -> Modules {
    match targets {
        TargetModules::AllLinear => "all-linear".into(),
        TargetModules::Names(names) => names.into(),
        TargetModules::Regex(regex) => regex.as_str().into(),
    }
}

/// The type in which frozen weights are read; int8 ones are quantised from f32 by the builder.
pub fn storage(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 | Dtype::Int8 => DType::F32,
        Dtype::Bf16 => DType::BF16,
    }
}

/// The type that the frozen encoder computes with, for the [fingerprint](crate::features::encoder_fingerprint) of its
/// features: that of the weights, with `U8` for int8.
pub fn arithmetic(dtype: Dtype) -> DType {
    match dtype {
        Dtype::Int8 => DType::U8,
        Dtype::F32 | Dtype::Bf16 => storage(dtype),
    }
}
