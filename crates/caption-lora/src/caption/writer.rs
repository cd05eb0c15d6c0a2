use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::metadata::Metadata;
use super::{Captioned, Inputs, TextCaption};
use crate::options::Caption;
use crate::terminal::say;

/// Prints captions, and collects them for `--metadata`.
pub struct CaptionWriter<'a> {
    inputs: &'a Inputs,
    json: bool,
    metadata: Option<Metadata>,
}

impl<'a> CaptionWriter<'a> {
    /// Checks the file of `--metadata` before any caption is computed.
    ///
    /// # Errors
    /// If the file exists, or a picture is not below its folder.
    pub fn new(options: &Caption, inputs: &'a Inputs) -> Result<Self> {
        let metadata = options.metadata.as_deref().map(|path: &Path| Metadata::new(path, &inputs.files));
        Ok(Self { inputs, json: options.json, metadata: metadata.transpose()? })
    }

    /// Prints the captions of one picture. Returns whether to continue: a closed pipe ends the work, unless
    /// there is a file to write.
    ///
    /// # Errors
    /// If the caption cannot be written as JSON.
    pub fn print(&mut self, picture: &Captioned) -> Result<bool> {
        let best = best(&picture.captions);
        for (index, caption) in picture.captions.iter().enumerate() {
            if let Some(metadata) = self.metadata.as_mut().filter(|_| index == best) {
                metadata.add(picture.row, &caption.text)?;
            }
            let line = if self.json { self.json_line(picture, caption) } else { self.line(picture, caption) };
            if !say(line) && self.metadata.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn line(&self, picture: &Captioned, caption: &TextCaption) -> String {
        let name = self.inputs.file(picture.row).unwrap_or_else(|| format!("row {}", picture.row));
        format!("{name}: {}", caption.text)
    }

    fn json_line(&self, picture: &Captioned, caption: &TextCaption) -> String {
        let TextCaption { ids, text, answer, score } = caption;
        let mut line = json!({ "ids": ids, "text": text, "score": score, "seconds": picture.seconds });
        if let (Some(prompt), Some(answer)) = (&picture.prompt, answer) {
            line["prompt"] = prompt.as_str().into();
            line["answer"] = answer.as_str().into();
        }
        match self.inputs.file(picture.row) {
            Some(image) => line["image"] = image.into(),
            None => line["row"] = picture.row.into(),
        }
        line.to_string()
    }

    /// Writes the file of `--metadata`, if there is one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<()> {
        self.metadata.map_or(Ok(()), |metadata| metadata.write())
    }
}

/// Index of the caption with the highest score, the first of equals. Sampled captions are in the order of sampling.
fn best(captions: &[TextCaption]) -> usize {
    let best = (0..captions.len()).rev().max_by(|a, b| captions[*a].score.total_cmp(&captions[*b].score));
    best.unwrap_or(0)
}
