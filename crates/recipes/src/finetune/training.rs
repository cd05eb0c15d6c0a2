use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use trainer_core::sinks::{ConsoleSink, CsvSink, JsonLinesSink, TensorBoardSink};
use trainer_core::{BoxError, Event, Outcome, Parameters, Resume, Trainer, TrainerState};

use super::{Recipe, Session};
use crate::cli::{self, ReportTo};
use crate::judge::Sample;
use crate::terminal::{say, say_error};
use crate::{files, results};

/// How training ended.
pub enum Trained {
    /// At its end, or early as an option asked for; the best weights are loaded.
    Finished(TrainerState),
    /// By a signal, with a checkpoint to resume from.
    Interrupted,
}

impl Recipe<'_> {
    /// Trains, writing checkpoints and logs, and saves the result.
    ///
    /// # Errors
    /// Those of [`Trainer::fit`], and if the trained weights cannot be saved.
    pub fn train(&self, command: &str, session: &Session) -> Result<Trained> {
        let training = &self.options.training;
        let samples = EvalCaptions::new(&self.folder.path, training.resume.is_some());
        let save = |to: &Path| -> Result<(), BoxError> {
            self.caption_checkpoint(to, &samples)?;
            self.save_model(to)
        };
        let task = self.task(&save);
        let train = self.batches(
            &self.inputs.rows.train,
            training.per_device_train_batch_size,
            self.options.shuffle(),
        );
        let validation =
            self.batches(&self.inputs.rows.validation, training.per_device_eval_batch_size, None);

        if training.resume.is_none() {
            results::remove_earlier(&self.folder.path, &results::LOGS)?;
        }
        let stop = session.stop_signal();
        let trainer = self.trainer(samples.clone())?.stop_signal(stop.clone());
        let state = match trainer.fit(&task, &train, Some(&validation))? {
            Outcome::Finished { state } => state,
            Outcome::Interrupted { state, checkpoint } => {
                // A sweep's command makes new runs.
                let command = if session.sweeps { command } else { "the same command with" };
                say_error(format_args!(
                    "stopped after step {} of {}, saved in {}; {command} --resume goes on from there",
                    state.global_step,
                    state.max_steps,
                    checkpoint.display()
                ));
                return Ok(Trained::Interrupted);
            }
        };
        // No step is left to finish, so that Ctrl-C ends at once from here on.
        stop.request();
        self.save_model(&self.folder.path).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Trained::Finished(state))
    }

    /// The engine with its sinks.
    fn trainer(&self, samples: EvalCaptions) -> Result<Trainer> {
        let parameters = Parameters::new(self.plan.adapted.parameters.clone())?;
        let is_new = self.options.training.resume.is_none();
        let folder = self.folder.path.clone();
        let mut trainer = Trainer::new(self.plan.arguments.clone(), parameters)?
            .sink(ConsoleSink::new())
            .sink(JsonLinesSink::append(&self.folder.log)?)
            .sink(move |event: &Event| -> Result<(), BoxError> {
                match event {
                    // Everything that can fail before the first step has been tried: now the folder is this run's.
                    Event::Started { .. } if is_new => results::remove_earlier(&folder, &results::RESULTS)?,
                    Event::Resumed { global_step, .. } => samples.truncate(*global_step),
                    _ => {}
                }
                Ok(())
            });
        for format in &self.options.run.report_to {
            trainer = match format {
                ReportTo::Csv => trainer.sink(CsvSink::append(&self.folder.path.join("log.csv"))?),
                ReportTo::Tensorboard => {
                    trainer.sink(TensorBoardSink::new(&self.folder.path.join("tensorboard"))?)
                }
            };
        }
        Ok(match &self.options.training.resume {
            None => trainer,
            Some(cli::Resume::Latest) => trainer.resume(Resume::Newest),
            Some(cli::Resume::From(dir)) => trainer.resume(Resume::From(dir.clone())),
        })
    }

    /// Captions some validation pictures at a checkpoint, where `--eval-captions` asks for it.
    fn caption_checkpoint(&self, checkpoint: &Path, samples: &EvalCaptions) -> Result<(), BoxError> {
        // A checkpoint has its step in its name, also while it is being written. Step 0 is the rehearsal before training.
        let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
        let step: usize = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        if let Some(count) = self.options.data.eval_captions.filter(|_| step > 0) {
            let rows = &self.inputs.rows.validation;
            let rows = &rows[..count.min(rows.len())];
            let sample = Sample::take(&self.captioner(), &self.inputs.source, rows)?;
            say(sample.to_string().trim_end());
            samples.add(&sample.line(step).to_string())?;
        }
        Ok(())
    }
}

/// The lines of `eval_captions.jsonl`, one for each checkpoint.
#[derive(Clone)]
struct EvalCaptions {
    path: PathBuf,
    lines: Arc<Mutex<String>>,
}

impl EvalCaptions {
    /// Begins with the lines of the run that is resumed.
    fn new(folder: &Path, is_resumed: bool) -> Self {
        let path = folder.join("eval_captions.jsonl");
        let before =
            if is_resumed { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        Self { path, lines: Arc::new(Mutex::new(before)) }
    }

    /// Keeps the lines up to the checkpoint that a run is resumed from.
    fn truncate(&self, global_step: usize) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        *lines = results::lines_until(global_step, &lines);
    }

    fn add(&self, line: &str) -> Result<()> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(line);
        lines.push('\n');
        files::replace(&self.path, lines.as_bytes())
    }
}
