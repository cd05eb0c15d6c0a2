//! Fine-tunes GIT with LoRA on captioned pictures, and shows what it says before and after.
//!
//! Without arguments it runs the whole recipe on a small model and on drawings that come with this repository. On the
//! real ones:
//!
//! ```text
//! cargo run --release --example pokemon_finetune -- --model microsoft/git-base --dataset reach-vb/pokemon-blip-captions
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use caption_data::drawings::DrawingSource;
use caption_data::{CaptionSource, TokenizedCaptions, split};
use recipes::adapt::{self, Adapted};
use recipes::captioning::{Captioner, pictures};
use recipes::cli::{self, EvalStrategy, Finetune, Padding, ReportTo, Resume, SweepRun};
use recipes::features::{FeatureStore, Keep, encoder_fingerprint};
use recipes::hub::Location;
use recipes::judge::{Judge, Sample};
use recipes::open::Pretrained;
use recipes::report::{Report, Run, strip_svg, write_comparison};
use recipes::results::{self, CaptionLine, Metrics};
use recipes::task::{CaptionBatches, CaptionTask, rows_of_first_samples};
use recipes::terminal::{one_line, say};
use recipes::{open, plot, save, setup};
use trainer_core::sinks::{ConsoleSink, CsvSink, JsonLinesSink, TensorBoardSink};
use trainer_core::{BoxError, Event, Outcome, Parameters, StopSignal, Trainer, TrainingArguments};

/// The exit code of a run that was stopped by Ctrl-C or SIGTERM and can be resumed: that of a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Test pictures in `captions.svg`.
const STRIP: usize = 4;

fn main() -> ExitCode {
    let options = Finetune::from_command_line();
    let outcome = match options.sweep(std::env::args_os()) {
        Ok(runs) if runs.is_empty() => Session::new(&options).and_then(|mut session| {
            let command = cli::command_line(std::env::args_os());
            run(&options, &command, &mut session)
        }),
        Ok(runs) => Session::new(&options).and_then(|mut session| sweep(&options, &runs, &mut session)),
        Err(error) => error.exit(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// What the runs of a sweep share.
struct Session {
    threads: NonZero<usize>,
    /// The signal of the run that Ctrl-C stops; requested where none is training, so that Ctrl-C ends at once.
    stop: Arc<Mutex<StopSignal>>,
    /// Whether other runs follow, which may need the features of other pictures.
    sweeps: bool,
    /// Image features, once they are computed.
    features: Option<Arc<FeatureStore>>,
}

impl Session {
    fn new(options: &Finetune) -> Result<Self> {
        if cfg!(debug_assertions) {
            eprintln!("warning: this is a debug build, many times slower; use cargo run --release");
        }
        let threads = cli::use_threads(options.hardware.threads)?;
        let none = StopSignal::new();
        none.request();
        let stop = Arc::new(Mutex::new(none));
        let current = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            let current = current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.is_requested() {
                std::process::exit(INTERRUPTED.into());
            }
            current.request();
            eprintln!("finishing this step, then saving; Ctrl-C once more ends at once");
        })?;
        Ok(Self { threads, stop, sweeps: !options.data.sweep.is_empty(), features: None })
    }

    /// The signal of a new run.
    fn stop_signal(&self) -> StopSignal {
        let signal = StopSignal::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = signal.clone();
        signal
    }
}

/// Runs a grid of options one after another, and compares what came out.
fn sweep(options: &Finetune, runs: &[SweepRun], session: &mut Session) -> Result<ExitCode> {
    for (number, sweep) in (1..).zip(runs) {
        say(format_args!("\nrun {number} of {}: {}", runs.len(), sweep.name));
        if run(&sweep.options, &sweep.command, session)? != ExitCode::SUCCESS {
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    let finished = runs
        .iter()
        .map(|sweep| Ok(Run { name: sweep.name.clone(), ..Run::read(&sweep.options.data.output_dir)? }))
        .collect::<Result<Vec<_>>>()?;
    let page = options.data.output_dir.join("compare.html");
    write_comparison(&finished, &page)?;
    say(format_args!("\n{} runs compared in {}", runs.len(), page.display()));
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Finetune, command: &str, session: &mut Session) -> Result<ExitCode> {
    let Finetune { data, training, lora, hardware, run, .. } = options;
    let threads = session.threads;
    let device = cli::device(hardware.device)?;
    let output_dir = data.output_dir.as_path();
    std::fs::create_dir_all(output_dir).with_context(|| {
        format!("cannot make the output folder {}; choose another with --output-dir", output_dir.display())
    })?;

    // Opened before the long work, so that a folder that cannot be written to is found now.
    let log = output_dir.join("log.jsonl");
    JsonLinesSink::append(&log)?;
    let model = if let Location::Local(dir) = &data.model { Some(dir) } else { None };
    for (flag, dir) in [("--init-adapter", lora.init_adapter.as_ref()), ("--model", model)] {
        if let Some(dir) = dir
            && training.resume.is_none()
            && results::is_result(output_dir, dir)
        {
            bail!(
                "{flag} {} is what an earlier run left, and a new run there removes it: choose another --output-dir",
                dir.display()
            );
        }
    }

    // What goes in: a pre-trained model, captioned pictures, and who learns from which.
    let Pretrained { name, dir, checkpoint, tokenizer, processor } = open::pretrained(&data.model)?;
    let source = open::dataset(&data.dataset, Some(data.subset))?;
    let rows =
        split(source.len(), [data.split.train, data.split.validation, data.split.test], data.split_seed)?;
    let captions = Arc::new(TokenizedCaptions::new(&source, &tokenizer)?);
    let dtype = adapt::storage(hardware.dtype);
    let between_runs = match &hardware.feature_cache_dir {
        Some(dir) if session.features.is_none() => {
            Some((dir.clone(), encoder_fingerprint(&checkpoint, dtype, &device)?))
        }
        _ => None,
    };
    let mut adapted = adapt::build(&name, checkpoint, lora, training.seed, &device, hardware)?;
    train_ops::release_memory();

    // How captions are padded, and how many of the step's batches run together.
    let config = adapted.model.config();
    let positions = config.max_position_embeddings;
    let max_length = tokenizer.max_length().unwrap_or(positions).min(positions);
    let (padding, longest) = match data.padding {
        Padding::Longest => {
            let lengths = rows.train.iter().filter_map(|row| captions.ids(*row)).map(<[u32]>::len);
            (caption_data::Padding::Longest, lengths.max().unwrap_or_default())
        }
        Padding::MaxLength => (caption_data::Padding::MaxLength(max_length), max_length),
    };
    let fused_micro_batches = options.fused_micro_batches(config, longest, adapted.vision_trains);

    let arguments = TrainingArguments { fused_micro_batches, ..options.training_arguments() };
    // Now, and not after the features are computed.
    arguments.validate()?;
    let counts = [&rows.train, &rows.validation, &rows.test].map(|rows| rows.len());
    let mut setup = vec![
        ("model".to_owned(), name.clone()),
        ("dataset".to_owned(), source.name()),
        ("split".to_owned(), format!("{} train, {} validation, {} test", counts[0], counts[1], counts[2])),
    ];
    setup.extend(setup::rows(options, &arguments, &adapted, rows.train.len()));
    if let caption_data::Padding::MaxLength(tokens) = padding {
        setup.push(("padding".to_owned(), format!("every caption to {tokens} tokens")));
    }
    let cores = if threads.get() == 1 { "thread" } else { "threads" };
    let computed_on = format!("{}, {:?}, {threads} {cores}", hardware.device, hardware.dtype).to_lowercase();
    setup.push(("device".to_owned(), computed_on));
    setup.push(("output".to_owned(), output_dir.display().to_string()));
    for (name, value) in &setup {
        say(format_args!("{name:>13}  {value}"));
    }

    if adapted.vision_trains
        && let Some(flag) = hardware.cache_flag()
    {
        bail!("{flag} does nothing, as the vision encoder is trained: {}", cli::TRAINED_ENCODER);
    }
    // A frozen encoder sees every picture once, and is let go then; a trained one sees every picture every time.
    let loader = pictures(&source, &processor);
    let shuffle = (!data.no_shuffle).then_some(training.seed);
    let features = if adapted.vision_trains || hardware.no_feature_cache {
        None
    } else {
        if session.features.is_none() {
            let per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps;
            let steps = training.max_steps.filter(|_| !session.sweeps);
            let samples = steps.map_or(usize::MAX, |steps| steps * per_step);
            let mut seen = rows_of_first_samples(&rows.train, shuffle, samples);
            if training.eval_strategy != EvalStrategy::No || data.eval_captions.is_some() || session.sweeps {
                seen.extend(&rows.validation);
            }
            seen.extend(&rows.test);
            let keep =
                Keep { memory: hardware.feature_memory(), between_runs, scratch: output_dir.to_owned() };
            let store = FeatureStore::new(&adapted.model, &loader, &seen, dtype, &keep)?;
            for damage in store.damaged() {
                eprintln!("warning: {damage}; what this run needs of it is computed again");
            }
            say(format_args!("{:>13}  {store}", "features"));
            if let Some(unneeded) = store.unneeded() {
                say(format_args!("note: {unneeded}"));
            }
            session.features = Some(Arc::new(store));
        }
        adapted.model.release_image_encoder();
        train_ops::release_memory();
        session.features.clone()
    };
    let Adapted { model, adapter, vision_trains, .. } = &adapted;
    let batches = |rows: &[usize], batch_size, shuffle| CaptionBatches {
        captions: Arc::clone(&captions),
        pictures: features.is_none().then(|| loader.clone()),
        rows: rows.to_vec(),
        batch_size,
        padding,
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
    let captioner =
        Captioner { model, tokenizer: &tokenizer, pictures: loader.clone(), features: features.clone() };
    let eval_captions = output_dir.join("eval_captions.jsonl");
    let before = training.resume.as_ref().and_then(|_| std::fs::read_to_string(&eval_captions).ok());
    let sampled = Arc::new(Mutex::new(before.unwrap_or_default()));
    let save = |to: &Path| -> Result<(), BoxError> {
        // A checkpoint has its step in its name, also while it is being written. Step 0 is the rehearsal before training.
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let step: usize = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        if let Some(count) = data.eval_captions.filter(|_| step > 0) {
            let rows = &rows.validation[..count.min(rows.validation.len())];
            let sample = Sample::take(&captioner, &source, rows)?;
            say(sample.to_string().trim_end());
            let mut lines = sampled.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push_str(&format!("{}\n", sample.line(step)));
            recipes::files::replace(&eval_captions, lines.as_bytes())?;
        }
        save_model(to)
    };
    let task = CaptionTask {
        model,
        features: features.clone(),
        vision_trains: *vision_trains,
        label_smoothing: training.label_smoothing_factor as f32,
        save: &save,
    };
    let judge = Judge { task: &task, captioner: &captioner, captions: &captions, source: &source };
    let judged = |name: &str| judge.judge(&test, &format!("captions of the {name} model"));
    // Without an adapter to switch off, the base model is gone after the first step.
    let base = if adapter.is_none() { Some(judged("base")?) } else { None };

    let is_new = training.resume.is_none();
    if is_new {
        results::remove_earlier(output_dir, &results::LOGS)?;
    }
    let (folder, resumed) = (output_dir.to_owned(), Arc::clone(&sampled));
    let stop = session.stop_signal();
    let mut trainer = Trainer::new(arguments, Parameters::new(adapted.parameters.clone())?)?
        .sink(ConsoleSink::new())
        .sink(JsonLinesSink::append(&log)?)
        .sink(move |event: &Event| -> Result<(), BoxError> {
            match event {
                // Everything that can fail before the first step has been tried: from here on the folder is this run's.
                Event::Started { .. } if is_new => results::remove_earlier(&folder, &results::RESULTS)?,
                Event::Resumed { global_step, .. } => {
                    let mut lines = resumed.lock().unwrap_or_else(PoisonError::into_inner);
                    *lines = results::lines_until(*global_step, &lines);
                }
                _ => {}
            }
            Ok(())
        })
        .stop_signal(stop.clone());
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
            // A sweep's command makes new runs.
            let command = if session.sweeps { command } else { "the same command with" };
            eprintln!(
                "stopped after step {} of {}, saved in {}; {command} --resume goes on from there",
                state.global_step,
                state.max_steps,
                checkpoint.display()
            );
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    // No step is left to finish, so that Ctrl-C ends at once from here on.
    stop.request();
    save_model(output_dir).map_err(|error| anyhow::anyhow!(error))?;

    // What came out, on pictures that training never saw.
    let adapted_result = judged("adapted")?;
    let base_result = match (base, adapter) {
        (Some(base), _) => base,
        (None, adapter) => {
            let _base = adapter.as_ref().map(|adapter| adapter.disable());
            judged("base")?
        }
    };
    let lines = results::caption_lines(&source, &rows.test, &base_result, &adapted_result)?;
    results::write_captions(output_dir, &lines)?;
    let metrics = Metrics::new(&base_result, &adapted_result);
    results::write_metrics(output_dir, &metrics)?;

    say(format_args!("\n{metrics}"));
    for line in lines.iter().take(5) {
        say(format_args!(
            "row {}: {}\n  base     {}\n  adapted  {}",
            line.row, line.reference, line.base, line.adapter
        ));
    }
    if data.dataset == Location::Embedded {
        print_share_named(&lines)?;
    }

    let history = results::history(&state);
    plot::write(&history, output_dir)?;
    let effects = adapter.as_ref().map(|adapter| adapter.effect()).transpose()?.unwrap_or_default();
    let report = Report {
        title: "Captions before and after fine-tuning".to_owned(),
        subtitle: setup::story(options, &adapted, rows.train.len(), &state),
        command: command.to_owned(),
        setup,
        history,
        metrics: metrics.rows(),
        signatures: metrics.signatures.into_iter().collect(),
        warnings: metrics.warnings,
        effects: effects.into_iter().collect(),
        examples: results::gallery(
            &source,
            &lines,
            [&base_result.scores.rouge_l, &adapted_result.scores.rouge_l],
        )?,
    };
    report.write(&output_dir.join("report.html"))?;
    let first = report.examples.get(..STRIP).unwrap_or(&report.examples);
    recipes::files::replace(&output_dir.join("captions.svg"), strip_svg(first)?.as_bytes())?;
    let model = if adapter.is_some() { "adapter/" } else { "model/" };
    say(format_args!(
        "\nwritten to {}: report.html, captions.jsonl, metrics.json, {model}",
        output_dir.display()
    ));
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
    say(format_args!(
        "\ncaptions that name creature and colour: base {base}, adapted {adapted} of {}",
        lines.len()
    ));
    Ok(())
}
