use std::path::PathBuf;

use anyhow::Result;
use trainer_core::sinks::{CsvSink, JsonLinesSink, TensorBoardSink};
use trainer_core::{BoxError, Event, EventSink};

use super::eval_captions::EvalCaptions;
use super::rows::skipped_lines;
use super::{OutputFolder, Recipe};
use crate::options::ReportTo;
use crate::results::SKIPPED_ROWS;
use crate::run_folder::SavedOptions;
use crate::{files, results};

/// The logs of a run. They are opened at its first event, after everything that can fail before training has
/// been checked. The files of a replaced run are removed then.
pub(super) struct Logs {
    folder: OutputFolder,
    options: SavedOptions,
    /// The name of the resumed run.
    resumed: Option<String>,
    names: Vec<&'static str>,
    formats: Vec<ReportTo>,
    captions: EvalCaptions,
    /// The lines of the file that lists skipped rows.
    skipped: String,
    sinks: Vec<Box<dyn EventSink>>,
}

impl Logs {
    pub(super) fn new(recipe: &Recipe<'_>, options: SavedOptions, captions: EvalCaptions) -> Self {
        Self {
            folder: recipe.folder.clone(),
            options,
            resumed: recipe.request.resumed.as_ref().map(|resumed| resumed.run.name.clone()),
            names: results::log_names(recipe.options),
            formats: recipe.options.run.report_to.clone(),
            captions,
            skipped: skipped_lines(&recipe.inputs.skipped),
            sinks: Vec::new(),
        }
    }

    fn open(&mut self, run: &str) -> Result<()> {
        self.folder.begin(run, &self.options, false, &self.names)?;
        let path = |name: &str| -> PathBuf { self.folder.path.join(name) };
        self.sinks.push(Box::new(JsonLinesSink::append(&path("log.jsonl"))?));
        for format in &self.formats {
            self.sinks.push(match format {
                ReportTo::Csv => Box::new(CsvSink::append(&path("log.csv"))?),
                ReportTo::Tensorboard => Box::new(TensorBoardSink::new(&path("tensorboard"))?),
            });
        }
        if !self.skipped.is_empty() {
            files::replace(&path(SKIPPED_ROWS), self.skipped.as_bytes())?;
        }
        // TensorBoard chooses the names of its files.
        self.folder.add(&self.names)
    }
}

impl EventSink for Logs {
    fn event(&mut self, event: &Event) -> Result<(), BoxError> {
        if self.sinks.is_empty() {
            let run = match event {
                Event::Started { run, .. } => run.clone(),
                _ => self.resumed.clone().unwrap_or_default(),
            };
            self.open(&run)?;
        }
        if let Event::Resumed { global_step, .. } = event {
            self.captions.truncate(*global_step);
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.event(event))
    }
}
