//! What a run leaves behind besides its adapter: metrics, captions, curves, the report.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use anyhow::Result;
use caption_data::CaptionSource;
use image::imageops::FilterType;
use serde::Serialize;
use trainer_core::{LogEntry, LossTotal, TrainerState};

use crate::files;
use crate::plot::{self, History};
use crate::report::Example;

/// Results on the test split, of the base model and of the adapted one: `metrics.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Metrics {
    /// Before fine-tuning.
    pub base: BTreeMap<&'static str, f64>,
    /// After it.
    pub adapter: BTreeMap<&'static str, f64>,
}

/// The loss of one model under its keys.
pub fn loss_metrics(loss: LossTotal) -> BTreeMap<&'static str, f64> {
    BTreeMap::from([("test_loss", loss.mean()), ("perplexity", loss.perplexity())])
}

/// One test picture: a line of `captions.jsonl`.
#[derive(Clone, Debug, Serialize)]
pub struct CaptionLine {
    /// Row of the dataset.
    pub row: usize,
    /// The dataset's caption.
    pub reference: String,
    /// What the base model says.
    pub base: String,
    /// What the adapted model says.
    pub adapter: String,
}

/// Writes `metrics.json` to the folder `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn write_metrics(dir: &Path, metrics: &Metrics) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(metrics)?;
    json.push(b'\n');
    files::replace(&dir.join("metrics.json"), &json)
}

/// Writes `captions.jsonl` to the folder `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn write_captions(dir: &Path, lines: &[CaptionLine]) -> Result<()> {
    let mut json = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut json, line)?;
        json.push(b'\n');
    }
    files::replace(&dir.join("captions.jsonl"), &json)
}

/// The learning curves of a run.
pub fn history(state: &TrainerState) -> History {
    let entries = state.log_history.iter().filter_map(|entry| match *entry {
        LogEntry::Train { loss, epoch, step, .. } => {
            Some(plot::LogEntry { step, epoch, loss: Some(loss), eval_loss: None })
        }
        LogEntry::Evaluation { eval_loss, epoch, step, .. } => {
            Some(plot::LogEntry { step, epoch, loss: None, eval_loss: Some(eval_loss) })
        }
        LogEntry::Summary { .. } => None,
    });
    History { entries: entries.collect(), best_step: state.best_global_step }
}

/// The report's gallery, with thumbnails of the pictures.
///
/// # Errors
/// If a picture cannot be read.
pub fn gallery(source: &dyn CaptionSource, lines: &[CaptionLine]) -> Result<Vec<Example>> {
    const THUMBNAIL: u32 = 200;
    lines
        .iter()
        .map(|line| {
            let picture = image::DynamicImage::ImageRgb8(source.image(line.row)?);
            let thumbnail = picture.resize(THUMBNAIL, THUMBNAIL, FilterType::Triangle);
            let mut image_png = Vec::new();
            thumbnail.write_to(&mut Cursor::new(&mut image_png), image::ImageFormat::Png)?;
            let CaptionLine { row, reference, base, adapter } = line.clone();
            Ok(Example { row, image_png, reference, base, adapter })
        })
        .collect()
}
