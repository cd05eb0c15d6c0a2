//! `captions.jsonl` and `eval_captions.jsonl`: captions beside their references, and the report's gallery of them.

use std::io::{Cursor, ErrorKind};
use std::path::Path;

use anyhow::{Context as _, Result};
use caption_data::{CaptionSource, Resample, RgbImage, resize};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::judge::Judgement;
use crate::report::Example;

/// One test picture: a line of `captions.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaptionLine {
    /// Row of the dataset.
    pub row: usize,
    /// The prompt of both models, for a dataset with prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The dataset's caption; the first if there are several.
    pub reference: String,
    /// All captions of the dataset, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// The base model's caption.
    pub base: String,
    /// The adapted model's caption.
    pub adapter: String,
}

impl CaptionLine {
    /// The prompt and all reference captions, for display.
    pub fn shown(&self) -> String {
        let references =
            if self.references.is_empty() { self.reference.clone() } else { self.references.join(" / ") };
        match &self.prompt {
            Some(prompt) => format!("{prompt} {references}"),
            None => references,
        }
    }
}

/// The lines of `captions.jsonl`: some rows, their reference captions, and the captions of both models.
///
/// # Errors
/// If a reference caption cannot be read.
pub fn caption_lines(
    source: &dyn CaptionSource,
    rows: &[usize],
    base: &Judgement,
    adapter: &Judgement,
) -> Result<Vec<CaptionLine>> {
    let said = base.captions.iter().cloned().zip(adapter.captions.iter().cloned());
    rows.iter()
        .zip(said)
        .map(|(&row, (base, adapter))| {
            let (prompt, mut references) = (source.prompt(row)?, source.captions(row)?);
            let reference = references[0].clone();
            if references.len() == 1 {
                references.clear();
            }
            Ok(CaptionLine { row, prompt, reference, references, base, adapter })
        })
        .collect()
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

/// The lines of `captions.jsonl` in the folder `dir`, none if it has no such file.
///
/// # Errors
/// If the file cannot be read, or a line of it is broken.
pub fn read_captions(dir: &Path) -> Result<Vec<CaptionLine>> {
    let path = dir.join("captions.jsonl");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let lines = text.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>();
    lines.with_context(|| format!("{} is broken", path.display()))
}

/// The report's gallery: thumbnails of the pictures, and the ROUGE-L of each caption of the base and the
/// adapted model.
///
/// # Errors
/// If a picture cannot be read.
pub fn gallery(
    source: &dyn CaptionSource,
    lines: &[CaptionLine],
    scores: [&[f64]; 2],
) -> Result<Vec<Example>> {
    let scores = scores[0].iter().zip(scores[1]);
    lines
        .iter()
        .zip(scores)
        .map(|(line, (&base_score, &adapter_score))| {
            let mut image_png = Vec::new();
            thumbnail(&source.image(line.row)?)
                .write_to(&mut Cursor::new(&mut image_png), image::ImageFormat::Png)?;
            let reference = line.shown();
            let CaptionLine { row, base, adapter, .. } = line.clone();
            Ok(Example { row, image_png, reference, base, adapter, base_score, adapter_score })
        })
        .collect()
}

/// The picture with a longer side of 200 pixels.
fn thumbnail(picture: &RgbImage) -> RgbImage {
    const SIDE: f64 = 200.0;
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let scaled = |side: f64| (side * SIDE / width.max(height)).round().max(1.0) as usize;
    resize(picture, (scaled(width), scaled(height)), Resample::Bilinear)
}

/// The lines of `eval_captions.jsonl` up to the checkpoint at `step`. A run that is resumed there writes the
/// later ones again.
pub fn lines_until(step: usize, lines: &str) -> String {
    let is_kept = |line: &&str| {
        let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
        line.and_then(|line| line["step"].as_u64()).is_some_and(|of| of <= step as u64)
    };
    lines.lines().filter(is_kept).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_keeps_the_captions_up_to_its_checkpoint() {
        let lines = "{\"step\":2}\n{\"step\":4}\n{\"step\":5}\n{\"step\":8}\n{\"st";
        assert_eq!(lines_until(4, lines), "{\"step\":2}\n{\"step\":4}\n");
    }
}
