//! Evaluates a model on the test pictures: loss, captions and scores, and whether it uses the pictures at
//! all.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use anyhow::Result;
use candle_core::Device;
use caption_data::{CaptionSource, TokenizedCaptions};
use caption_metrics::{Scores, score};
use caption_model::GenerationConfig;
use serde_json::json;
use train_ops::{ForwardContext, release_memory};
use trainer_core::{LossTotal, evaluate_together};

use crate::batches::CaptionBatches;
use crate::captioning::Captioner;
use crate::distributed::Team;
use crate::features::encode;
use crate::task::CaptionTask;

/// If the loss with shuffled pictures is less than this many times the loss with the right ones, the model
/// ignores them.
const IGNORED: f64 = 1.01;

/// Evaluates one model, before and after fine-tuning, on the same rows.
pub struct Judge<'a> {
    /// The model as a training task, for its loss.
    pub task: &'a CaptionTask<'a>,
    /// The model as a captioner.
    pub captioner: &'a Captioner<'a>,
    /// The dataset's captions as token ids.
    pub captions: &'a TokenizedCaptions,
    /// The dataset.
    pub source: &'a dyn CaptionSource,
    /// The processes that divide the work.
    pub team: &'a Team,
}

/// The results of an evaluation.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Loss of the reference captions, each with its own picture.
    pub loss: LossTotal,
    /// Loss of the reference captions, each with another row's picture; `None` if there is only one picture.
    pub shuffled: Option<LossTotal>,
    /// The model's captions, in the order of the rows.
    pub captions: Vec<String>,
    /// Scores of the captions.
    pub scores: Scores,
    /// The number of reference captions of each row.
    pub references: Vec<usize>,
}

impl Judge<'_> {
    /// Computes loss, captions and scores on the rows of `test`; `message` is shown in the progress bar.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn judge(&self, test: &CaptionBatches, message: &str) -> Result<Judgement> {
        // Training, losses and captions use buffers of different sizes, and the pool would hold all of them
        // at once.
        release_memory();
        let rows = test.rows.rows();
        let loss = evaluate_together(self.task, test, self.team.workers.as_ref())?.loss;
        let shuffled = self.shuffled_loss(test)?;
        release_memory();
        let captions = divided(self.captioner, rows, message, self.team)?;
        let scores = scored(self.source, rows, &captions)?;
        let references = rows.iter().map(|row| self.captions.references(*row)).collect::<Result<_, _>>()?;
        Ok(Judgement { loss, shuffled, captions, scores, references })
    }

    /// The loss with the pictures shifted by half the split, so that each caption has a wrong one. It is
    /// higher if the model uses the pictures.
    fn shuffled_loss(&self, test: &CaptionBatches) -> Result<Option<LossTotal>> {
        let rows = test.rows.rows();
        let count = rows.len();
        if count < 2 {
            return Ok(None);
        }
        let (model, mut others) = (self.task.model, rows.to_vec());
        others.rotate_left(count / 2);
        let other: BTreeMap<usize, usize> = rows.iter().copied().zip(others).collect();
        let all = self.captions.all(rows)?;
        let batches: Vec<_> = all.chunks(test.batch_size).collect();
        let mut own = Vec::new();
        for captions in &batches[self.team.workers.share(batches.len())] {
            let others: Vec<usize> = captions.iter().map(|(row, _)| other[row]).collect();
            let features = match &self.task.features {
                Some(store) => store.batch(&others)?,
                None => encode(model, &self.captioner.pictures.load(&others)?.pixel_values(model.device())?)?,
            };
            let batch = self.captions.batch_of(captions, test.padding)?;
            let labels = batch.labels(&Device::Cpu)?.to_vec2::<i64>()?;
            let (sum, targets) = model.loss(
                &features,
                &batch.input_ids(model.device())?,
                &labels,
                &ForwardContext::inference(),
            )?;
            // As bits: JSON has no NaN.
            own.push((f64::from(sum.to_scalar::<f32>()?).to_bits(), targets));
        }
        let mut total = LossTotal::default();
        for (sum, targets) in self.team.gather(&own)?.concat() {
            total += LossTotal { sum: f64::from_bits(sum), targets };
        }
        Ok(Some(total))
    }
}

/// Captions of some validation rows during training, and their scores.
pub struct Sample {
    rows: Vec<usize>,
    captions: Vec<String>,
    scores: Scores,
}

impl Sample {
    /// Captions the rows. The processes of the team divide the work.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn take(
        captioner: &Captioner<'_>,
        source: &dyn CaptionSource,
        rows: &[usize],
        team: &Team,
    ) -> Result<Self> {
        let captions = divided(captioner, rows, "captions", team)?;
        Ok(Self { scores: scored(source, rows, &captions)?, rows: rows.to_vec(), captions })
    }

    /// One line of `eval_captions.jsonl`: the checkpoint's step, all scores and the captions.
    pub fn line(&self, step: usize) -> serde_json::Value {
        let captions = self.rows.iter().zip(&self.captions);
        let captions: Vec<_> = captions.map(|(row, text)| json!({ "row": row, "text": text })).collect();
        json!({ "step": step, "scores": self.scores.values, "captions": captions })
    }
}

/// For the console: the most informative scores, and three captions.
impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [cider, bleu, rouge] = ["cider_d", "bleu_4", "rouge_l"].map(|key| self.scores.values[key]);
        let count = self.rows.len();
        writeln!(f, "{count} captions: CIDEr-D {cider:.3}  BLEU-4 {bleu:.3}  ROUGE-L {rouge:.3}")?;
        let mut captions = self.rows.iter().zip(&self.captions).take(3);
        captions.try_for_each(|(row, caption)| writeln!(f, "  row {row}: {caption}"))
    }
}

/// The captions of some rows. Each process of the team computes a part of them. `message` is shown in the
/// progress bar.
fn divided(captioner: &Captioner<'_>, rows: &[usize], message: &str, team: &Team) -> Result<Vec<String>> {
    let own = &rows[team.workers.share(rows.len())];
    let captions = captioner.caption_all(own, &GenerationConfig::recipe(), message)?;
    Ok(team.gather(&captions)?.concat())
}

/// Scores of the captions of some rows, each against all reference captions of its row.
fn scored(source: &dyn CaptionSource, rows: &[usize], captions: &[String]) -> Result<Scores> {
    let references = rows.iter().map(|row| source.captions(*row)).collect::<Result<Vec<_>, _>>()?;
    Ok(score(captions, &references)?)
}

impl Judgement {
    /// All values under their keys in `metrics.json`.
    pub fn metrics(&self) -> BTreeMap<&'static str, f64> {
        let mut metrics = loss_metrics(self.loss);
        metrics.extend(self.scores.values.iter().map(|(key, value)| (*key, *value)));
        if let Some(ratio) = self.shuffled_ratio() {
            metrics.insert("shuffled_loss_ratio", ratio);
        }
        metrics
    }

    /// Loss with shuffled pictures divided by loss with the right ones: 1 if the model ignores the pictures.
    pub fn shuffled_ratio(&self) -> Option<f64> {
        self.shuffled.map(|shuffled| shuffled.mean() / self.loss.mean())
    }

    /// Remarks about the results, in sentences.
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

/// One model's loss under its keys.
fn loss_metrics(loss: LossTotal) -> BTreeMap<&'static str, f64> {
    BTreeMap::from([("test_loss", loss.mean()), ("perplexity", loss.perplexity())])
}
