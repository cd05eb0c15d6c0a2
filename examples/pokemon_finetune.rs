//! Fine-tunes GIT with LoRA on captioned pictures, and shows what it says before and after.
//!
//! Without arguments it runs the whole recipe on a small model and on drawings that come with this repository. On the
//! real ones:
//!
//! ```text
//! cargo run --release --example pokemon_finetune -- --model microsoft/git-base --dataset reach-vb/pokemon-blip-captions
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use caption_data::drawings::DrawingSource;
use caption_data::{CaptionSource, TokenizedCaptions, split};
use git_model::GenerationConfig;
use recipes::adapt::{self, Adapted};
use recipes::captioning::{Captioner, FeatureStore, pictures};
use recipes::cli::{self, EvalStrategy, Finetune, Padding, ReportTo, Resume};
use recipes::hub::Location;
use recipes::open::Pretrained;
use recipes::report::{Metric, Report, strip_svg};
use recipes::results::{self, CaptionLine, Metrics};
use recipes::task::{CaptionBatches, CaptionTask, rows_of_first_samples};
use recipes::{open, plot, save};
use trainer_core::sinks::{ConsoleSink, CsvSink, JsonLinesSink, TensorBoardSink};
use trainer_core::{BoxError, LossTotal, Outcome, Parameters, StopSignal, Trainer, evaluate};

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: that of a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Test pictures in `captions.svg`.
const STRIP: usize = 4;

fn main() -> ExitCode {
    match run(&Finetune::from_command_line()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Finetune) -> Result<ExitCode> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build, many times slower; use cargo run --release");
    }
    let Finetune { data, training, lora, hardware, run, .. } = options;
    let threads = cli::use_threads(hardware.threads)?;
    let device = cli::device(hardware.device)?;
    let output_dir = data.output_dir.as_path();
    std::fs::create_dir_all(output_dir).with_context(|| {
        format!("cannot make the output folder {}; choose another with --output-dir", output_dir.display())
    })?;

    // Opened before the long work, so that a folder that cannot be written to is found now.
    let log = JsonLinesSink::append(&output_dir.join("log.jsonl"))?;

    // What goes in: a pre-trained model, captioned pictures, and who learns from which.
    let Pretrained { name, dir, checkpoint, tokenizer, processor } = open::pretrained(&data.model)?;
    let source = open::dataset(&data.dataset, Some(data.subset))?;
    let rows =
        split(source.len(), [data.split.train, data.split.validation, data.split.test], data.split_seed)?;
    let captions = Arc::new(TokenizedCaptions::new(&source, &tokenizer)?);
    let mut adapted = adapt::build(&name, checkpoint, lora, training.seed, &device, hardware.dtype)?;

    let setup = vec![
        ("model".to_owned(), name.clone()),
        ("dataset".to_owned(), source.name()),
        (
            "split".to_owned(),
            format!(
                "{} train, {} validation, {} test",
                rows.train.len(),
                rows.validation.len(),
                rows.test.len()
            ),
        ),
        ("trainable".to_owned(), adapted.summary()),
        (
            "device".to_owned(),
            format!("{}, {:?}, {threads} threads", hardware.device, hardware.dtype).to_lowercase(),
        ),
        ("output".to_owned(), output_dir.display().to_string()),
    ];
    for (name, value) in &setup {
        println!("{name:>10}  {value}");
    }

    // A frozen encoder sees every picture once, and is let go then; a trained one sees every picture every time.
    let loader = pictures(&source, &processor);
    let shuffle = (!data.no_shuffle).then_some(training.seed);
    let features = if adapted.vision_trains || hardware.no_feature_cache {
        None
    } else {
        let per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps;
        let samples = training.max_steps.map_or(usize::MAX, |steps| steps * per_step);
        let mut seen = rows_of_first_samples(&rows.train, shuffle, samples);
        if training.eval_strategy != EvalStrategy::No {
            seen.extend(&rows.validation);
        }
        seen.extend(&rows.test);
        let store = FeatureStore::new(&adapted.model, &loader, &seen, adapt::storage(hardware.dtype))?;
        adapted.model.release_image_encoder();
        Some(Arc::new(store))
    };
    let Adapted { model, adapter, vision_trains, .. } = &adapted;
    let positions = model.config().max_position_embeddings;
    let max_length = tokenizer.max_length().unwrap_or(positions).min(positions);
    let batches = |rows: &[usize], batch_size, shuffle| CaptionBatches {
        captions: Arc::clone(&captions),
        pictures: features.is_none().then(|| loader.clone()),
        rows: rows.to_vec(),
        batch_size,
        padding: match data.padding {
            Padding::Longest => caption_data::Padding::Longest,
            Padding::MaxLength => caption_data::Padding::MaxLength(max_length),
        },
        shuffle,
    };
    let train = batches(&rows.train, training.per_device_train_batch_size, shuffle);
    let validation = batches(&rows.validation, training.per_device_eval_batch_size, None);
    let test = batches(&rows.test, training.per_device_eval_batch_size, None);

    let save_model = |to: &Path| -> Result<(), BoxError> {
        match adapter {
            Some(adapter) => Ok(adapter.save(to.join("adapter"))?),
            None => Ok(save::checkpoint(&adapted.parameters, &dir, &to.join("model"))?),
        }
    };
    let task =
        CaptionTask { model, features: features.clone(), vision_trains: *vision_trains, save: &save_model };
    let captioner =
        Captioner { model, tokenizer: &tokenizer, pictures: loader.clone(), features: features.clone() };
    let judge = |name: &str| -> Result<(LossTotal, Vec<String>)> {
        let loss = evaluate(&task, &test)?.loss;
        let message = format!("captions of the {name} model");
        Ok((loss, captioner.caption_all(&rows.test, &GenerationConfig::recipe(), &message)?))
    };
    // Without an adapter to switch off, the base model is gone after the first step.
    let base = if adapter.is_none() { Some(judge("base")?) } else { None };

    let stop = StopSignal::new();
    let request = stop.clone();
    ctrlc::set_handler(move || {
        if request.is_requested() {
            std::process::exit(INTERRUPTED.into());
        }
        request.request();
        eprintln!("finishing this step, then saving; Ctrl-C once more ends at once");
    })?;
    let trained = stop.clone();
    let mut trainer =
        Trainer::new(options.training_arguments(), Parameters::new(adapted.parameters.clone())?)?
            .sink(ConsoleSink::new())
            .sink(log)
            .stop_signal(stop);
    for format in &run.report_to {
        trainer = match format {
            ReportTo::Csv => trainer.sink(CsvSink::append(&output_dir.join("log.csv"))?),
            ReportTo::Tensorboard => trainer.sink(TensorBoardSink::new(&output_dir.join("tensorboard"))?),
        };
    }
    if let Some(resume) = &training.resume {
        trainer = trainer.resume(match resume {
            Resume::Latest => trainer_core::Resume::Newest,
            Resume::From(dir) => trainer_core::Resume::From(dir.clone()),
        });
    }
    let state = match trainer.fit(&task, &train, Some(&validation))? {
        Outcome::Finished { state } => state,
        Outcome::Interrupted { state, checkpoint } => {
            eprintln!(
                "stopped after step {} of {}, saved in {}; the same command with --resume goes on from there",
                state.global_step,
                state.max_steps,
                checkpoint.display()
            );
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    // No step is left to finish, so that Ctrl-C ends at once from here on.
    trained.request();
    save_model(output_dir).map_err(|error| anyhow::anyhow!(error))?;

    // What came out, on pictures that training never saw.
    let (adapter_loss, adapter_captions) = judge("adapted")?;
    let (base_loss, base_captions) = match (base, adapter) {
        (Some(base), _) => base,
        (None, adapter) => {
            let _base = adapter.as_ref().map(|adapter| adapter.disable());
            judge("base")?
        }
    };
    let lines = rows
        .test
        .iter()
        .zip(base_captions.into_iter().zip(adapter_captions))
        .map(|(&row, (base, adapter))| {
            Ok(CaptionLine { row, reference: source.caption(row)?, base, adapter })
        })
        .collect::<Result<Vec<_>>>()?;
    results::write_captions(output_dir, &lines)?;
    let metrics =
        Metrics { base: results::loss_metrics(base_loss), adapter: results::loss_metrics(adapter_loss) };
    results::write_metrics(output_dir, &metrics)?;

    println!("\n{:>10}  {:>10} {:>10}", "", "base", "adapted");
    println!("{:>10}  {:>10.4} {:>10.4}", "test loss", base_loss.mean(), adapter_loss.mean());
    println!("{:>10}  {:>10.2} {:>10.2}\n", "perplexity", base_loss.perplexity(), adapter_loss.perplexity());
    for line in lines.iter().take(5) {
        println!(
            "row {}: {}\n  base     {}\n  adapted  {}",
            line.row, line.reference, line.base, line.adapter
        );
    }
    if data.dataset == Location::Embedded {
        print_share_named(&lines)?;
    }

    let history = results::history(&state);
    recipes::files::replace(
        &output_dir.join("loss.svg"),
        plot::loss_svg(&history, plot::Style::default())?.as_bytes(),
    )?;
    let metric = |name: &str, base, adapter| Metric {
        name: name.to_owned(),
        base: Some(base),
        adapter: Some(adapter),
        lower_is_better: true,
    };
    let report = Report {
        title: "Captions before and after fine-tuning".to_owned(),
        subtitle: format!("{} on {}", name, source.name()),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        setup,
        history,
        metrics: vec![
            metric("Test loss", base_loss.mean(), adapter_loss.mean()),
            metric("Perplexity", base_loss.perplexity(), adapter_loss.perplexity()),
        ],
        examples: results::gallery(&source, &lines)?,
    };
    report.write(&output_dir.join("report.html"))?;
    let first = report.examples.get(..STRIP).unwrap_or(&report.examples);
    recipes::files::replace(&output_dir.join("captions.svg"), strip_svg(first)?.as_bytes())?;
    let model = if adapter.is_some() { "adapter/" } else { "model/" };
    println!("\nwritten to {}: report.html, captions.jsonl, metrics.json, {model}", output_dir.display());
    Ok(ExitCode::SUCCESS)
}

/// How many captions name the drawn creature and its colour.
fn print_share_named(lines: &[CaptionLine]) -> Result<()> {
    let drawings = DrawingSource::default();
    let (mut base, mut adapted) = (0, 0);
    for line in lines {
        let monster = drawings.monster(line.row)?;
        base += usize::from(monster.names_creature_and_color(&line.base));
        adapted += usize::from(monster.names_creature_and_color(&line.adapter));
    }
    println!("\ncaptions that name creature and colour: base {base}, adapted {adapted} of {}", lines.len());
    Ok(())
}
