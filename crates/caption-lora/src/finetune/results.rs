use anyhow::Result;
use monster_drawings::DrawingSource;
use trainer_core::TrainerState;

use super::Recipe;
use super::story::story;
use crate::hub::Location;
use crate::judge::Judgement;
use crate::options::Dtype;
use crate::report::{self, History, Report};
use crate::results::{self, CaptionLine, Metrics};
use crate::run_folder::RunState;
use crate::terminal::say;

/// The remark of a run with `--dtype int8`.
const IN_INT8: &str =
    "both models were computed in 8 bits (--dtype int8): in f32, losses and captions differ a little";

/// Number of test captions that are printed.
const PRINTED: usize = 5;

/// Losses, scores and captions of the test split, before and after.
pub struct Results {
    /// Judgements of the base model and the adapted model; `None` without test rows.
    judgements: Option<[Judgement; 2]>,
    lines: Vec<CaptionLine>,
    metrics: Metrics,
}

impl Results {
    pub(super) fn new(recipe: &Recipe<'_>, base: Judgement, adapted: Judgement) -> Result<Self> {
        let inputs = &recipe.inputs;
        let lines = results::caption_lines(&inputs.source, &inputs.rows.test, &base, &adapted)?;
        let mut metrics = Metrics::new(&base, &adapted);
        if recipe.options.hardware.dtype == Dtype::Int8 {
            metrics.warnings.push(IN_INT8.to_owned());
        }
        Ok(Self { judgements: Some([base, adapted]), lines, metrics })
    }

    /// The results of a run without test rows.
    pub(super) fn untested() -> Self {
        Self { judgements: None, lines: Vec::new(), metrics: Metrics::default() }
    }

    /// Writes `captions.jsonl`, `metrics.json`, the curves and the report, and prints the main numbers.
    ///
    /// # Errors
    /// If a file cannot be written, or a picture of the report cannot be read.
    pub fn write(self, recipe: &Recipe<'_>, state: &TrainerState) -> Result<()> {
        let output_dir = recipe.folder.path.as_path();
        let is_tested = self.judgements.is_some();
        if is_tested {
            results::write_captions(output_dir, &self.lines)?;
        }
        results::write_metrics(output_dir, &self.metrics)?;
        self.print(recipe)?;

        let report = || self.report(recipe, state, results::history(state));
        let page = if report::write(report, output_dir)? { "report.html, " } else { "" };
        recipe.folder.set_state(RunState::Finished)?;
        let model = if recipe.plan.adapted.adapter.is_some() { "adapter/" } else { "model/" };
        let captions = if is_tested { "captions.jsonl, " } else { "" };
        say(format_args!("\nwritten to {}: {page}{captions}metrics.json, {model}", output_dir.display()));
        Ok(())
    }

    fn print(&self, recipe: &Recipe<'_>) -> Result<()> {
        if self.judgements.is_none() {
            say("\n--split leaves no rows for the test, so that no results were measured");
            return Ok(());
        }
        say(format_args!("\n{}", self.metrics));
        for line in self.lines.iter().take(PRINTED) {
            say(format_args!(
                "row {}: {}\n  base     {}\n  adapted  {}",
                line.row,
                line.shown(),
                line.base,
                line.adapter
            ));
        }
        if recipe.options.data.dataset == Location::Embedded {
            print_share_named(&self.lines)?;
        }
        Ok(())
    }

    fn report(self, recipe: &Recipe<'_>, state: &TrainerState, history: History) -> Result<Report> {
        let adapted = &recipe.plan.adapted;
        let effects = adapted.adapter.as_ref().map(|adapter| adapter.effect()).transpose()?;
        let examples = match &self.judgements {
            Some(judgements) => {
                let rouge = judgements.each_ref().map(|judgement| judgement.scores.rouge_l.as_slice());
                results::gallery(&recipe.inputs.source, &self.lines, rouge)?
            }
            None => Vec::new(),
        };
        Ok(Report {
            title: "Captions before and after fine-tuning".to_owned(),
            subtitle: story(recipe.options, adapted, recipe.inputs.rows.train.len(), state),
            command: recipe.request.command.clone(),
            setup: recipe.plan.setup.clone(),
            history,
            metrics: self.metrics.rows(),
            signatures: self.metrics.signatures.into_iter().collect(),
            warnings: self.metrics.warnings,
            effects: effects.unwrap_or_default().into_iter().collect(),
            examples,
        })
    }
}

/// Prints how many captions name the drawn creature and its colour.
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
