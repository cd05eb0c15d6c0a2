//! What a run is: everything that decides its numbers, so that `--resume` continues the same run or refuses.
//!
//! For how long and how fast a run trains may change, and what is measured, saved and written meanwhile; so may the device and
//! the number of threads. Everything else is an entry here, under the flag that sets it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use caption_data::CaptionSource;
use peft_lora::{LoraConfig, Modules};
use trainer_core::Identity;
use twox_hash::XxHash3_128;

use crate::adapt::Adapted;
use crate::cli::{Finetune, TargetModules};
use crate::finetune::Inputs;
use crate::hub::Location;
use crate::resume::Resumed;

/// Flag of the adapter that a run begins with, whose entry a resumed run takes over.
const INIT_ADAPTER: &str = "--init-adapter";

/// Fingerprints of what a run reads, which take a while to compute: all runs of a sweep share them.
#[derive(Clone, Debug)]
pub struct Contents {
    weights: String,
    tokenizer: String,
    processor: String,
    dataset: String,
}

impl Contents {
    /// Reads the checkpoint's files and the pictures and captions of all rows that are used.
    ///
    /// # Errors
    /// If a file or a row cannot be read.
    pub fn read(options: &Finetune, inputs: &Inputs) -> Result<Self> {
        Ok(Self {
            weights: files(&inputs.dir, |name| name == "config.json" || is_weights(&inputs.dir, name))?,
            tokenizer: files(&inputs.dir, |name| {
                name.starts_with("tokenizer")
                    || ["vocab.txt", "added_tokens.json", "special_tokens_map.json"].contains(&name)
            })?,
            processor: files(&inputs.dir, |name| name.ends_with("processor_config.json"))?,
            dataset: rows(inputs, options.data.dataset == Location::Embedded)?,
        })
    }
}

/// The identity of a run with these options.
///
/// # Errors
/// If the adapter that the run begins with cannot be read.
pub fn of(
    options: &Finetune,
    inputs: &Inputs,
    adapted: &Adapted,
    contents: &Contents,
    resumed: Option<&Resumed>,
) -> Result<Identity> {
    let Finetune { data, training, optimizer, lora, hardware, .. } = options;
    let order = [&inputs.rows.train, &inputs.rows.validation, &inputs.rows.test];
    let hidden_dropout = lora.hidden_dropout.map_or("the checkpoint's own".to_owned(), |p| p.to_string());
    let subset = data.most_rows().map_or("all rows".to_owned(), |rows| rows.to_string());
    let identity = Identity::new()
        .with_content("--model", &inputs.name, &contents.weights)
        .with_content("the tokenizer of --model", &inputs.name, &contents.tokenizer)
        .with_content("the image processor of --model", &inputs.name, &contents.processor)
        .with_content("--dataset", inputs.source.name(), &contents.dataset)
        .with_content("--subset", subset, inputs.source.len().to_string())
        .with("--split", data.split)
        .with("--split-seed", data.split_seed)
        .with("--split-by", format!("{:?}", data.split_by).to_lowercase())
        .with_content("the rows of the splits", "", hash(format!("{order:?}").as_bytes()))
        .with("--padding", format!("{:?}", data.padding).to_lowercase())
        .with("--no-shuffle", data.no_shuffle)
        .with("--seed", training.seed)
        .with("--per-device-train-batch-size", training.per_device_train_batch_size)
        .with("--gradient-accumulation-steps", training.gradient_accumulation_steps)
        .with("--label-smoothing-factor", training.label_smoothing_factor)
        .with("--optim", format!("{:?}", optimizer.optim).to_lowercase())
        .with("--tune", format!("{:?}", lora.tune).to_lowercase())
        .with("--hidden-dropout", hidden_dropout)
        .with("--dtype", format!("{:?}", hardware.dtype).to_lowercase());
    let Some(adapter) = &adapted.adapter else { return Ok(identity) };
    let identity = with_adapter(identity, options, adapter.config())?;
    match (&lora.init_adapter, resumed) {
        (None, _) => Ok(identity),
        (Some(dir), Some(resumed)) if is_the_runs_own(dir, resumed) => {
            // Its weights are those of the checkpoint now, so that its files are no longer needed.
            let saved = resumed.run.identity.clone().unwrap_or_default();
            Ok(identity.with_entry_of(&saved, INIT_ADAPTER))
        }
        (Some(dir), _) => {
            let content = files(dir, |name| name.starts_with("adapter_"))?;
            Ok(identity.with_content(INIT_ADAPTER, dir.display(), content))
        }
    }
}

/// Whether a file of a checkpoint's folder has the weights that are read, or some of them: a folder may have them in more than
/// one form, of which the first counts.
fn is_weights(dir: &Path, name: &str) -> bool {
    let first = |name: &str| dir.join(name).is_file();
    if first("model.safetensors") {
        name == "model.safetensors"
    } else if first("model.safetensors.index.json") {
        name == "model.safetensors.index.json" || name.starts_with("model-") && name.ends_with(".safetensors")
    } else {
        name.starts_with("pytorch_model")
    }
}

/// Whether a folder is the one that the run began with, by its path.
fn is_the_runs_own(dir: &Path, resumed: &Resumed) -> bool {
    let saved = resumed.options.flags.anchored(&resumed.options.directory);
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    saved.value("init-adapter").is_some_and(|value| absolute(Path::new(value)) == absolute(dir))
}

fn with_adapter(identity: Identity, options: &Finetune, config: &LoraConfig) -> Result<Identity> {
    let targets = match (&options.lora.target_modules, &config.target_modules) {
        // The configuration has the path of each layer.
        (Some(TargetModules::AllLinear), _) => "all-linear".to_owned(),
        (_, Modules::Names(names)) => names.join(","),
        (_, Modules::Regex(pattern)) => pattern.clone(),
    };
    let modules = serde_json::to_string(&config.target_modules)?;
    // What names the model and what a flag below says is not part of it.
    let rest = LoraConfig {
        r: 0,
        lora_alpha: 0.0,
        lora_dropout: 0.0,
        target_modules: Modules::default(),
        base_model_name_or_path: None,
        revision: None,
        ..config.clone()
    };
    Ok(identity
        .with("--lora-r", config.r)
        .with("--lora-alpha", config.lora_alpha)
        .with("--lora-dropout", config.lora_dropout)
        .with_content("--target-modules", targets, hash(modules.as_bytes()))
        .with_content("the adapter's configuration", "", hash(serde_json::to_string(&rest)?.as_bytes())))
}

/// A hash of the captions, prompts and pictures of all rows that are used, in the order of the dataset. Pictures that come
/// with this program are known by its version, those of files by the fingerprints that were taken when the rows were checked.
fn rows(inputs: &Inputs, embedded: bool) -> Result<String> {
    let rows = &inputs.rows;
    let mut used: Vec<usize> =
        [&rows.train, &rows.validation, &rows.test].into_iter().flatten().copied().collect();
    used.sort_unstable();
    let mut hasher = XxHash3_128::new();
    if embedded {
        hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
    }
    let source: &dyn CaptionSource = &inputs.source;
    for row in used {
        let picture = inputs.pictures.get(row).with_context(|| format!("row {row} was not checked"))?;
        hasher.write(&picture.to_le_bytes());
        for text in source.captions(row)?.into_iter().chain(source.prompt(row)?) {
            // The length keeps apart texts that are the same when they are joined.
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
    }
    Ok(format!("{:032x}", hasher.finish_128()))
}

/// A hash of the files of a folder whose names are `wanted`: their names and contents.
fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
    names.sort();
    let mut hasher = XxHash3_128::new();
    let mut buffer = vec![0; 1 << 20];
    for name in names {
        let path = dir.join(&name);
        let read = || format!("cannot read {}", path.display());
        let mut file = File::open(&path).with_context(read)?;
        hasher.write(name.as_bytes());
        loop {
            let bytes = file.read(&mut buffer).with_context(read)?;
            if bytes == 0 {
                break;
            }
            hasher.write(&buffer[..bytes]);
        }
    }
    Ok(format!("{:032x}", hasher.finish_128()))
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}
