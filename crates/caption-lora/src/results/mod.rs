//! The results of a run besides its adapter: metrics, captions, curves, and the names of its files.

mod captions;
mod metrics;

use trainer_core::{LogEntry, TrainerState};

use crate::options::{Finetune, OnBadRow, ReportTo, Tune};
use crate::report::{self, History};

pub use captions::{CaptionLine, caption_lines, gallery, lines_until, read_captions, write_captions};
pub use metrics::{Metrics, write_metrics};

/// The file in the output folder that lists skipped rows.
pub const SKIPPED_ROWS: &str = "skipped_rows.jsonl";

/// The names in the output folder that a run with these options writes during training.
pub fn log_names(options: &Finetune) -> Vec<&'static str> {
    let mut names = vec!["trainer_state.json", "log.jsonl"];
    names.extend(options.run.report_to.iter().map(|format| match format {
        ReportTo::Csv => "log.csv",
        ReportTo::Tensorboard => "tensorboard",
    }));
    names.extend(options.data.eval_captions.map(|_| "eval_captions.jsonl"));
    names.extend((options.data.on_bad_row == OnBadRow::Skip).then_some(SKIPPED_ROWS));
    names
}

/// The names in the output folder that a run with these options writes after training.
pub fn result_names(options: &Finetune) -> Vec<&'static str> {
    let model = if options.lora.tune == Tune::Full { "model" } else { "adapter" };
    [&[model, "metrics.json", "captions.jsonl"], report::FILES].concat()
}

/// The learning curves of a run.
pub fn history(state: &TrainerState) -> History {
    let entries = state.log_history.iter().filter_map(|entry| match *entry {
        LogEntry::Train { loss, grad_norm, learning_rate, epoch, step } => Some(report::LogEntry {
            step,
            epoch,
            loss: Some(loss),
            eval_loss: None,
            learning_rate: Some(learning_rate),
            grad_norm: Some(grad_norm),
        }),
        LogEntry::Evaluation { eval_loss, epoch, step, .. } => {
            Some(report::LogEntry { step, epoch, eval_loss: Some(eval_loss), ..report::LogEntry::default() })
        }
        _ => None,
    });
    History { entries: entries.collect(), best_step: state.best_global_step }
}
