//! Creates the small checkpoint in crates/caption-lora/assets/git-monsters: GIT from random weights, with full
//! training on drawn monsters and their captions in the first style. The same seed gives the same checkpoint.
//!
//! ```text
//! cargo run --release --example pretrain_monsters -- --output-dir crates/caption-lora/assets/git-monsters
//! ```
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use caption_data::{CaptionSource, Padding, TokenizedCaptions};
use caption_lora::captioning::{Captioner, pictures};
use caption_lora::hub::Location;
use caption_lora::task::{CaptionBatches, CaptionTask, References};
use caption_lora::{cli, files, open, save};
use clap::Parser;
use git_model::{GenerationConfig, GitConfig, GitForCausalLm};
use monster_drawings::{DrawingSource, Style, vocabulary};
use serde_json::json;
use train_ops::{TrainableBuilder, sample_key};
use trainer_core::sinks::ConsoleSink;
use trainer_core::{IntervalStrategy, Parameters, SchedulerType, Trainer, TrainingArguments};

/// Pre-trains the small GIT checkpoint that the examples use without arguments.
#[derive(Parser)]
struct Options {
    /// Folder for the checkpoint
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Optimizer steps
    #[arg(long, value_name = "STEPS", default_value_t = 2000)]
    steps: usize,
    /// Drawings per step
    #[arg(long, value_name = "DRAWINGS", default_value_t = 32)]
    batch_size: usize,
    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    learning_rate: f64,
    /// Seed of the weights, the drawings and dropout; fine-tuning uses the drawings of seed 0
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// Drawings that are captioned at the end, as a check.
const HELD_OUT: usize = 200;

fn main() -> Result<()> {
    let options = Options::parse();
    cli::use_threads(None)?;
    let scratch = tempfile::tempdir()?;
    let config = write_companions(scratch.path())?;
    save::checkpoint(&initial_weights(&config, options.seed)?, scratch.path(), scratch.path())?;

    let pretrained = open::pretrained(&Location::Local(scratch.path().to_owned()))?;
    let mut builder = TrainableBuilder::new();
    let model = GitForCausalLm::load(&pretrained.checkpoint, &mut builder)?;
    let parameters = builder.finish();

    let count = options.steps * options.batch_size;
    let drawings = DrawingSource::new(options.seed, count + HELD_OUT, Style::First, 2 * IMAGE_SIZE as u32);
    let source: Arc<dyn CaptionSource> = Arc::new(drawings.clone());
    let captions = Arc::new(TokenizedCaptions::new(&source, &pretrained.tokenizer)?);
    let loader = pictures(&source, &pretrained.processor);
    let train = CaptionBatches {
        captions,
        pictures: Some(loader.clone()),
        rows: (0..count).collect(),
        references: References::All,
        batch_size: options.batch_size,
        padding: Padding::Longest,
        shuffle: None,
    };
    let task = CaptionTask {
        model: &model,
        features: None,
        vision_trains: true,
        label_smoothing: 0.0,
        save: &|_| Ok(()),
    };
    let arguments = TrainingArguments {
        num_train_epochs: 1.0,
        learning_rate: options.learning_rate,
        lr_scheduler_type: SchedulerType::Cosine,
        warmup_ratio: 0.05,
        weight_decay: 0.01,
        save_strategy: IntervalStrategy::No,
        logging_steps: 100,
        seed: options.seed,
        ..TrainingArguments::new(scratch.path().join("run"))
    };
    let outcome = Trainer::new(arguments, Parameters::new(parameters.clone())?)?
        .sink(ConsoleSink::new())
        .fit(&task, &train, None)?;
    println!("last loss {:?}", outcome.state().log_history.last());

    let captioner = Captioner {
        model: &model,
        tokenizer: &pretrained.tokenizer,
        pictures: loader,
        features: None,
        prompts: None,
    };
    let rows: Vec<usize> = (count..count + HELD_OUT).collect();
    let said = captioner.caption_all(&rows, &GenerationConfig::default(), "held-out captions")?;
    let mut right = 0;
    for (&row, caption) in rows.iter().zip(&said) {
        right += usize::from(drawings.monster(row)?.names_creature_and_color(caption));
    }
    for (&row, caption) in rows.iter().zip(&said).take(5) {
        println!("{}\n  {caption}", source.caption(row)?);
    }
    println!("{right} of {HELD_OUT} held-out captions name creature and colour");
    save::checkpoint(&parameters, scratch.path(), &options.output_dir)
}

const IMAGE_SIZE: usize = 64;

/// Writes the files that accompany the weights; returns the configuration.
fn write_companions(dir: &Path) -> Result<GitConfig> {
    const POSITIONS: usize = 64;
    let vocabulary = vocabulary();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let id = |token: &str| vocabulary.iter().position(|word| word == token);
    let write = |name: &str, value: &serde_json::Value| {
        files::replace(&dir.join(name), (serde_json::to_string_pretty(value)? + "\n").as_bytes())
    };
    let config = json!({
        "architectures": ["GitForCausalLM"], "model_type": "git", "vocab_size": vocabulary.len(),
        "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": id("[PAD]"), "bos_token_id": id("[CLS]"), "eos_token_id": id("[SEP]"),
        "vision_config": {
            "model_type": "git_vision_model", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 384, "image_size": IMAGE_SIZE, "patch_size": 8
        }
    });
    write("config.json", &config)?;
    write(
        "preprocessor_config.json",
        &json!({
            "image_processor_type": "CLIPImageProcessor", "processor_class": "GitProcessor", "do_resize": true,
            "do_center_crop": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true, "resample": 3,
            "rescale_factor": 1.0 / 255.0, "size": {"shortest_edge": IMAGE_SIZE},
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]
        }),
    )?;
    write(
        "tokenizer_config.json",
        &json!({
            "tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": POSITIONS,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
            "mask_token": "[MASK]"
        }),
    )?;
    let added: Vec<_> = special
        .iter()
        .map(|token| {
            json!({"id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let ids: BTreeMap<&String, usize> = vocabulary.iter().zip(0..).collect();
    let (cls, sep) = (id("[CLS]"), id("[SEP]"));
    write(
        "tokenizer.json",
        &json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [cls], "tokens": ["[CLS]"]},
                                   "[SEP]": {"id": "[SEP]", "ids": [sep], "tokens": ["[SEP]"]}}
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": ids}
        }),
    )?;
    Ok(serde_json::from_value(config)?)
}

/// Initial weights as in transformers: matrices of small normal numbers, biases 0, norms 1.
fn initial_weights(config: &GitConfig, seed: u64) -> Result<BTreeMap<String, Var>> {
    const STD: f64 = 0.02;
    let mut drawn = 0;
    let mut normal = || {
        // The Box-Muller transform of two uniform numbers.
        let mut uniform = || {
            drawn += 1;
            ((sample_key(seed, 0, drawn) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (u, v) = (uniform(), uniform());
        (STD * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    config
        .tensor_shapes()
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let values = match (shape.len(), name.ends_with(".weight")) {
                (1, true) => vec![1.0; count],
                (1, false) if name.ends_with(".bias") => vec![0.0; count],
                _ => (0..count).map(|_| normal()).collect(),
            };
            Ok((name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?))
        })
        .collect()
}
