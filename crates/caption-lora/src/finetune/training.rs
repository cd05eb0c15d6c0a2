use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use trainer_core::sinks::ConsoleSink;
use trainer_core::{BoxError, Outcome, Parameters, Resume, Trainer, TrainerState};

use super::eval_captions::EvalCaptions;
use super::logs::Logs;
use super::session::saved_options;
use super::{Recipe, Session};
use crate::engine_words::{self, InFlags};
use crate::judge::Sample;
use crate::run_folder::{Commits, OPTIONS, RunState};
use crate::task::CaptionTask;
use crate::terminal::{say, say_error};
use crate::{results, shell};

/// How training ended.
pub enum Trained {
    /// Completely, or early because of an option; the best weights are loaded.
    Finished(TrainerState),
    /// By a signal, with a checkpoint to resume from.
    Interrupted,
}

impl Recipe<'_> {
    /// Trains, writing checkpoints and logs, and saves the result.
    ///
    /// # Errors
    /// The errors of [`Trainer::fit`], and if the trained weights cannot be saved.
    pub fn train(&self, session: &Session) -> Result<Trained> {
        let samples = EvalCaptions::new(&self.folder.path, self.request.resumed.is_some());
        let adapter_config = self.plan.adapted.adapter.as_ref().map(|adapter| adapter.config().clone());
        let [validation, test] = self.inputs.held_out_commits.clone();
        let (model, dataset) = (self.inputs.commit.clone(), self.inputs.source_commit.clone());
        let commits = Commits { model, dataset, validation, test };
        let saved = saved_options(self.request, adapter_config, Some(commits))?;
        let sample: Mutex<Option<(usize, Sample)>> = Mutex::default();
        let sampled = || sample.lock().unwrap_or_else(PoisonError::into_inner);
        let before_saving = |step: usize| -> Result<(), BoxError> {
            *sampled() = self.sample(step)?;
            Ok(())
        };
        let save = |to: &Path| -> Result<(), BoxError> {
            if let Some((step, sample)) = sampled().take() {
                say(sample.to_string().trim_end());
                samples.add(&sample.line(step).to_string())?;
            }
            std::fs::write(to.join(OPTIONS), serde_json::to_vec_pretty(&saved)?)?;
            self.save_model(to)
        };
        let task = CaptionTask { before_saving: Some(&before_saving), ..self.task(&save) };
        let train = self.training_batches();
        let validation = self.evaluation_batches(&self.inputs.rows.validation);
        // Without rows there is no evaluation.
        let validation = (!validation.rows.rows().is_empty()).then_some(&validation);

        let stop = session.stop_signal(&self.folder.path);
        let logs = Logs::new(self, saved.clone(), samples.clone());
        let trainer = self.trainer(logs)?.stop_signal(stop.clone());
        let outcome = trainer.fit(&task, &train, validation.map(|batches| batches as _));
        let state = match outcome.map_err(engine_words::error)? {
            Outcome::Finished { state } => state,
            Outcome::Interrupted { state, checkpoint } => {
                self.folder.set_state(RunState::Interrupted)?;
                if !self.plan.team.leads() {
                    return Ok(Trained::Interrupted);
                }
                let resumable = session.sweep_folder.as_ref().unwrap_or(&self.folder.path);
                say_error(format_args!(
                    "stopped after step {} of {}, saved in {}; continue with: {}",
                    state.global_step,
                    state.max_steps,
                    checkpoint.display(),
                    shell::finetune_command(&["--resume".as_ref(), resumable.as_os_str()])
                ));
                return Ok(Trained::Interrupted);
            }
        };
        // No step is in progress any more, so from here on Ctrl-C ends the process at once.
        stop.request();
        if !self.plan.team.leads() {
            return Ok(Trained::Finished(state));
        }
        let names = results::result_names(self.options);
        self.folder.add(&names)?;
        self.save_model(&self.folder.path).map_err(|error| anyhow::anyhow!(error))?;
        self.folder.add(&names)?;
        Ok(Trained::Finished(state))
    }

    /// The engine with its sinks.
    fn trainer(&self, logs: Logs) -> Result<Trainer> {
        let parameters = Parameters::new(self.plan.adapted.parameters.clone())?;
        let trainer = Trainer::new(self.plan.arguments.clone(), parameters)
            .map_err(engine_words::error)?
            .identity(self.plan.identity.clone())
            .workers(Arc::clone(&self.plan.team.workers))
            .device_graphs(!self.options.hardware.no_cuda_graph);
        let trainer = if self.plan.team.leads() {
            trainer.sink(InFlags(ConsoleSink::new())).sink(logs)
        } else {
            trainer
        };
        let Some(resumed) = &self.request.resumed else { return Ok(trainer) };
        let is_elsewhere = resumed.folder != self.folder.path;
        Ok(trainer.resume(match &resumed.checkpoint {
            Some(checkpoint) => Resume::From(checkpoint.clone()),
            None if is_elsewhere => Resume::From(resumed.newest.clone()),
            None => Resume::Newest,
        }))
    }

    /// The captions of some validation pictures at the checkpoint of a step, with `--eval-captions`.
    fn sample(&self, step: usize) -> Result<Option<(usize, Sample)>> {
        let Some(count) = self.options.data.eval_captions else { return Ok(None) };
        let rows = &self.inputs.rows.validation;
        let rows = &rows[..count.min(rows.len())];
        let sample = Sample::take(&self.captioner(), &self.inputs.source, rows, &self.plan.team)?;
        Ok(Some((step, sample)))
    }
}
