//! Creates the small checkpoint in crates/caption-lora/assets/git-monsters: GIT from random weights, with full
//! training on drawn monsters and their captions in the first style. The same seed gives the same checkpoint.
//!
//! ```text
//! cargo run --release --example pretrain_monsters -- --output-dir crates/caption-lora/assets/git-monsters
//! ```
#![allow(clippy::print_stdout)]

mod companions;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use caption_data::{CaptionSource, Padding, TokenizedCaptions};
use caption_lora::batches::{CaptionBatches, References};
use caption_lora::captioning::{Captioner, pictures};
use caption_lora::hub::Location;
use caption_lora::row_order::RowOrder;
use caption_lora::task::CaptionTask;
use caption_lora::threads::use_threads;
use caption_lora::{open, save};
use caption_model::LoadOptions;
use clap::Parser;
use git_model::GenerationConfig;
use monster_drawings::{DrawingSource, Style};
use train_ops::TrainableBuilder;
use trainer_core::sinks::ConsoleSink;
use trainer_core::{IntervalStrategy, Parameters, SchedulerType, Trainer, TrainingArguments};

use companions::{IMAGE_SIZE, write_companions};
use weights::initial_weights;

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
    use_threads(None)?;
    let scratch = tempfile::tempdir()?;
    let config = write_companions(scratch.path())?;
    save::checkpoint(&initial_weights(&config, options.seed)?, scratch.path(), scratch.path())?;

    let pretrained = open::pretrained(&Location::Local(scratch.path().to_owned()))?;
    let mut builder = TrainableBuilder::new();
    let model = pretrained.checkpoint.load_model(&mut builder, &LoadOptions::default())?;
    let parameters = builder.finish();

    let count = options.steps * options.batch_size;
    let drawings = DrawingSource::new(options.seed, count + HELD_OUT, Style::First, 2 * IMAGE_SIZE as u32);
    let source: Arc<dyn CaptionSource> = Arc::new(drawings.clone());
    let captions = Arc::new(TokenizedCaptions::new(&source, &pretrained.tokenizer)?);
    let loader = pictures(&source, &pretrained.processor);
    let train = CaptionBatches {
        captions,
        pictures: Some(loader.clone()),
        rows: RowOrder::fixed((0..count).collect::<Vec<_>>()),
        references: References::All,
        batch_size: options.batch_size,
        padding: Padding::Longest,
    };
    let task = CaptionTask {
        model: model.as_ref(),
        features: None,
        vision_trains: true,
        label_smoothing: 0.0,
        graphs: None,
        save: &|_| Ok(()),
        before_saving: None,
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
        model: model.as_ref(),
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
