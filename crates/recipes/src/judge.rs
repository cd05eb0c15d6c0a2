//! How good a model's captions of the test pictures are, and whether it looks at the pictures at all.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use candle_core::Device;
use caption_data::{CaptionSource, TokenizedCaptions};
use caption_metrics::{Scores, score};
use git_model::GenerationConfig;
use serde_json::json;
use train_ops::{Pass, release_memory};
use trainer_core::{LossTotal, evaluate};

use crate::captioning::Captioner;
use crate::features::encode;
use crate::results;
use crate::task::{CaptionBatches, CaptionTask};

/// Below this ratio of losses the pictures make no difference worth the name.
const IGNORED: f64 = 1.01;

/// Judges one model, before and after fine-tuning, on the same rows.
pub struct Judge<'a> {
    /// The model as a task, for its loss.
    pub task: &'a CaptionTask<'a>,
    /// The model as a captioner.
    pub captioner: &'a Captioner<'a>,
    /// The dataset's captions as ids.
    pub captions: &'a TokenizedCaptions,
    /// The dataset.
    pub source: &'a dyn CaptionSource,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Loss of the references, each with its picture.
    pub loss: LossTotal,
    /// Loss of the references, each with another one's picture; `None` where there is one picture alone.
    pub shuffled: Option<LossTotal>,
    /// What the model says, in the order of the rows.
    pub captions: Vec<String>,
    /// How good that is.
    pub scores: Scores,
    /// How many references each row has.
    pub references: Vec<usize>,
}

impl Judge<'_> {
    /// Loss, captions and scores on the rows of `test`; `message` goes to the progress bar.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn judge(&self, test: &CaptionBatches, message: &str) -> Result<Judgement> {
        // Training, losses and captions need memory of other sizes, each of which would be kept beside the others.
        release_memory();
        let loss = evaluate(self.task, test)?.loss;
        let shuffled = self.shuffled_loss(test)?;
        release_memory();
        let captions = self.captioner.caption_all(&test.rows, &GenerationConfig::recipe(), message)?;
        let scores = scored(self.source, &test.rows, &captions)?;
        let references = test.rows.iter().map(|row| self.captions.references(*row)).collect();
        Ok(Judgement { loss, shuffled, captions, scores, references })
    }

    /// The loss with every caption at the picture half the split away from its own: a model that looks at pictures finds
    /// these captions less likely.
    fn shuffled_loss(&self, test: &CaptionBatches) -> Result<Option<LossTotal>> {
        let count = test.rows.len();
        if count < 2 {
            return Ok(None);
        }
        let (model, mut others) = (self.task.model, test.rows.clone());
        others.rotate_left(count / 2);
        let other: BTreeMap<usize, usize> = test.rows.iter().copied().zip(others).collect();
        let mut total = LossTotal::default();
        for captions in self.captions.all(&test.rows).chunks(test.batch_size) {
            let others: Vec<usize> = captions.iter().map(|(row, _)| other[row]).collect();
            let features = match &self.task.features {
                Some(store) => store.batch(&others)?,
                None => encode(model, &self.captioner.pictures.load(&others)?.pixel_values(model.device())?)?,
            };
            let batch = self.captions.batch_of(captions, test.padding)?;
            let labels = batch.labels(&Device::Cpu)?.to_vec2::<i64>()?;
            let (sum, targets) =
                model.loss(&features, &batch.input_ids(model.device())?, &labels, &Pass::inference())?;
            total += LossTotal { sum: f64::from(sum.to_scalar::<f32>()?), targets };
        }
        Ok(Some(total))
    }
}

/// What a model in training says of some rows, and how good that is.
pub struct Sample {
    rows: Vec<usize>,
    captions: Vec<String>,
    scores: Scores,
}

impl Sample {
    /// Captions the rows.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn take(captioner: &Captioner<'_>, source: &dyn CaptionSource, rows: &[usize]) -> Result<Self> {
        let captions = captioner.caption_all(rows, &GenerationConfig::recipe(), "captions")?;
        Ok(Self { scores: scored(source, rows, &captions)?, rows: rows.to_vec(), captions })
    }

    /// One line of `eval_captions.jsonl`: the checkpoint's step, all scores and the captions.
    pub fn line(&self, step: usize) -> serde_json::Value {
        let captions = self.rows.iter().zip(&self.captions);
        let captions: Vec<_> = captions.map(|(row, text)| json!({ "row": row, "text": text })).collect();
        json!({ "step": step, "scores": self.scores.values, "captions": captions })
    }
}

/// For the console: the scores that say most, and three captions.
impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [cider, bleu, rouge] = ["cider_d", "bleu_4", "rouge_l"].map(|key| self.scores.values[key]);
        let count = self.rows.len();
        writeln!(f, "{count} captions: CIDEr-D {cider:.3}  BLEU-4 {bleu:.3}  ROUGE-L {rouge:.3}")?;
        let mut captions = self.rows.iter().zip(&self.captions).take(3);
        captions.try_for_each(|(row, caption)| writeln!(f, "  row {row}: {caption}"))
    }
}

/// Scores of captions of some rows, against all references of each.
fn scored(source: &dyn CaptionSource, rows: &[usize], captions: &[String]) -> Result<Scores> {
    let references = rows.iter().map(|row| source.captions(*row)).collect::<Result<Vec<_>, _>>()?;
    Ok(score(captions, &references)?)
}

impl Judgement {
    /// Everything under the keys of `metrics.json`.
    pub fn metrics(&self) -> BTreeMap<&'static str, f64> {
        let mut metrics = results::loss_metrics(self.loss);
        metrics.extend(self.scores.values.iter().map(|(key, value)| (*key, *value)));
        if let Some(ratio) = self.shuffled_ratio() {
            metrics.insert("shuffled_loss_ratio", ratio);
        }
        metrics
    }

    /// Loss with shuffled pictures over loss with the right ones: 1 where pictures are ignored.
    pub fn shuffled_ratio(&self) -> Option<f64> {
        self.shuffled.map(|shuffled| shuffled.mean() / self.loss.mean())
    }

    /// What a reader of the metrics should know, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.scores.warnings.iter().map(ToString::to_string).collect();
        if let Some(ratio) = self.shuffled_ratio()
            && ratio < IGNORED
        {
            warnings.push(format!(
                "the pictures are all but ignored: with another picture the loss is {ratio:.3} times what it is with the right one"
            ));
        }
        warnings
    }
}
