//! The identity of a run: everything that decides its numbers. `--resume` refuses a run with another identity.
//!
//! Some things may change: how long and how fast a run trains, what is measured, saved and written, the
//! device, and the number of threads. Everything else is an entry of the identity, under the name of the flag
//! that sets it.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use caption_data::CaptionSource;
use peft_lora::{LoraConfig, Modules};
use train_ops::ContentHash;
use trainer_core::Identity;
use twox_hash::XxHash3_128;

use super::inputs::Inputs;
use crate::adapt::{Adapted, same_modules};
use crate::hub::Location;
use crate::options::{Finetune, HeldOut, TargetModules};
use crate::resume::Resumed;

/// Flag of the adapted layers, whose names may come in any order.
const TARGET_MODULES: &str = "--target-modules";
/// Flag of the initial adapter. A resumed run copies this entry.
const INIT_ADAPTER: &str = "--init-adapter";

/// Fingerprints of a run's inputs. They take a while to compute, so all runs of a sweep share them.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    weights: String,
    tokenizer: String,
    processor: String,
    dataset: String,
}

impl Contents {
    /// Reads the checkpoint's files, and the pictures and captions of all rows in use.
    ///
    /// # Errors
    /// If a file or a row cannot be read.
    pub(super) fn read(options: &Finetune, inputs: &Inputs) -> Result<Self> {
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
/// If the initial adapter cannot be read.
pub(super) fn of(
    options: &Finetune,
    inputs: &Inputs,
    adapted: &Adapted,
    contents: &Contents,
    resumed: Option<&Resumed>,
) -> Result<Identity> {
    let Finetune { data, training, optimizer, lora, hardware, .. } = options;
    let order = [&inputs.rows.train, &inputs.rows.validation, &inputs.rows.test];
    let hidden_dropout = lora.hidden_dropout.map_or("the checkpoint's own".to_owned(), |p| p.to_string());
    let subset = match data.most_rows() {
        Some(rows) if inputs.beyond > 0 => rows.to_string(),
        _ => format!("all {} rows", inputs.source.len()),
    };
    let mut identity = Identity::new()
        .with_content("--model", &inputs.name, &contents.weights)
        .with_content("the tokenizer of --model", &inputs.name, &contents.tokenizer)
        .with_content("the image processor of --model", &inputs.name, &contents.processor)
        .with_content("--dataset", inputs.source.name(), &contents.dataset)
        .with_content("--subset", subset, inputs.source.len().to_string())
        .with("--split", data.split)
        .with("--split-seed", data.split_seed)
        .with("--split-by", data.split_by)
        .with_content("the rows of the splits", "", hash_of_text(format_args!("{order:?}")))
        .with("--padding", data.padding)
        .with("--no-shuffle", data.no_shuffle)
        .with("--seed", training.seed)
        .with("--per-device-train-batch-size", training.per_device_train_batch_size)
        .with("--gradient-accumulation-steps", training.gradient_accumulation_steps)
        .with("--label-smoothing-factor", training.label_smoothing_factor)
        .with("--optim", optimizer.optim)
        .with("--tune", lora.tune)
        .with("--hidden-dropout", hidden_dropout)
        .with("--dtype", hardware.dtype);
    // Recorded only if it has an effect, so that runs of versions without windows can be resumed.
    if let (Some(_), Some(window)) = (&inputs.windows, data.window(inputs.source.as_ref())) {
        identity = identity.with("--shuffle-window", format!("{window} bytes"));
    }
    for (flag, part) in [("--validation", &data.validation), ("--test", &data.test)] {
        if let Some(part) = part {
            // The content of a named dataset is part of the data.
            let is_named = matches!(part, HeldOut::Dataset(_));
            identity = match is_named {
                true => identity.with_content(flag, part, ""),
                false => identity.with(flag, part),
            };
        }
    }
    let Some(adapter) = &adapted.adapter else { return Ok(identity) };
    let identity = with_adapter(identity, options, adapter.config(), resumed)?;
    match (&lora.init_adapter, resumed) {
        (None, _) => Ok(identity),
        (Some(dir), Some(resumed)) if is_the_runs_own(dir, resumed) => {
            // The weights come from the checkpoint now, so the adapter's files are no longer needed.
            let saved = resumed.run.identity.clone().unwrap_or_default();
            Ok(identity.with_entry_of(&saved, INIT_ADAPTER))
        }
        (Some(path), _) => {
            // A resumed run does not download the adapter, so adapters are compared by their names.
            let folder = adapted.first_adapter.as_ref().map_or(path.as_path(), |first| first.dir.as_path());
            let is_adapter = |name: &str| name.starts_with("adapter_");
            let content = if folder.is_dir() { files(folder, is_adapter)? } else { String::new() };
            Ok(identity.with_content(INIT_ADAPTER, path.display(), content))
        }
    }
}

/// Whether a file of a checkpoint's folder contains the weights in use, or a part of them. A folder may have
/// weights in several formats, of which the first one found is used.
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

/// Whether a path is that of the resumed run's initial adapter.
fn is_the_runs_own(dir: &Path, resumed: &Resumed) -> bool {
    let saved = resumed.options.flags.anchored(&resumed.options.directory);
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    saved.value("init-adapter").is_some_and(|value| absolute(Path::new(value)) == absolute(dir))
}

fn with_adapter(
    identity: Identity,
    options: &Finetune,
    config: &LoraConfig,
    resumed: Option<&Resumed>,
) -> Result<Identity> {
    let targets = match (&options.lora.target_modules, &config.target_modules) {
        // The adapter's configuration lists the path of each layer.
        (Some(TargetModules::AllLinear), _) => "all-linear".to_owned(),
        (_, Modules::Names(names)) => names.join(","),
        (_, Modules::Regex(pattern)) => pattern.clone(),
    };
    let modules = serde_json::to_string(&config.target_modules)?;
    // Excludes the model's name and everything that has an entry of its own below.
    let rest = LoraConfig {
        r: 0,
        lora_alpha: 0.0,
        lora_dropout: 0.0,
        target_modules: Modules::default(),
        base_model_name_or_path: None,
        revision: None,
        ..config.clone()
    };
    let identity = identity
        .with("--lora-r", config.r)
        .with("--lora-alpha", config.lora_alpha)
        .with("--lora-dropout", config.lora_dropout)
        .with_content(TARGET_MODULES, targets, hash(modules.as_bytes()))
        .with_content("the adapter's configuration", "", hash(serde_json::to_string(&rest)?.as_bytes()));
    let before = resumed.and_then(|resumed| {
        Some((resumed.run.identity.as_ref()?, &resumed.options.adapter_config.as_ref()?.target_modules))
    });
    match before {
        Some((saved, targets)) if same_modules(targets, &config.target_modules) => {
            Ok(identity.with_entry_of(saved, TARGET_MODULES))
        }
        _ => Ok(identity),
    }
}

/// A hash of the captions, prompts and pictures of all rows in use, in the order of the dataset. For a dataset
/// of which only a sample was checked, it is the number that identifies its content. Embedded pictures are
/// identified by the program's version, others by the fingerprints taken when the rows were checked.
fn rows(inputs: &Inputs, embedded: bool) -> Result<String> {
    let source: &dyn CaptionSource = &inputs.source;
    if inputs.pictures.is_empty()
        && let Some(content) = source.content()
    {
        return Ok(format!("{content:032x}"));
    }
    let rows = &inputs.rows;
    let mut used: Vec<usize> =
        [&rows.train, &rows.validation, &rows.test].into_iter().flatten().copied().collect();
    used.sort_unstable();
    let mut hasher = ContentHash::default();
    if embedded {
        hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
    }
    for row in used {
        let picture = match inputs.pictures.get(row) {
            Some(picture) => *picture,
            None => source.fingerprint(row)?,
        };
        hasher.write(&picture.to_le_bytes());
        for text in source.captions(row)?.into_iter().chain(source.prompt(row)?) {
            // Hashing the lengths distinguishes lists of texts that are equal when joined.
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        }
    }
    Ok(format!("{:032x}", hasher.finish()))
}

/// A hash of the names and contents of a folder's files whose names are `wanted`.
fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
    names.sort();
    let mut hasher = ContentHash::default();
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
    Ok(format!("{:032x}", hasher.finish()))
}

/// The hash of a long text that is not in memory as a whole.
fn hash_of_text(text: fmt::Arguments<'_>) -> String {
    struct Hasher(ContentHash);
    impl fmt::Write for Hasher {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut hasher = Hasher(ContentHash::default());
    // Hashing cannot fail.
    let _ = fmt::Write::write_fmt(&mut hasher, text);
    format!("{:032x}", hasher.0.finish())
}

fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}
