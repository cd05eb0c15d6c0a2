//! Captioning as a task of the training engine.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use caption_data::CaptionBatch;
use caption_model::{CaptionModel, TextBatch};
use train_ops::{ForwardContext, GraphCut, sample_key};
use trainer_core::{
    BoxError, Cut, Gradients, LossSum, LossTotal, Parameters, Segments, StepContext, Task, Warning,
};

use crate::batches::Batch;
use crate::features::{FeatureStore, PassFeatures, encode};
use crate::step_graphs::{Pass, StepGraphs};
use crate::training_text::{TrainingText, length_multiple, padded_length};

/// The captioning task.
pub struct CaptionTask<'a> {
    /// The model.
    pub model: &'a dyn CaptionModel,
    /// Cached image features; `None` if they are computed for each batch.
    pub features: Option<Arc<FeatureStore>>,
    /// Whether the vision encoder is trained.
    pub vision_trains: bool,
    /// Label smoothing, in training only: validation losses stay comparable between runs, and their
    /// exponential is a perplexity.
    pub label_smoothing: f32,
    /// CUDA graphs of the passes, if they are to be used.
    pub graphs: Option<StepGraphs>,
    /// Writes the trained parameters into a checkpoint's folder.
    pub save: &'a dyn Fn(&Path) -> Result<(), BoxError>,
    /// Prepares the checkpoint of a step, on all processes of a job; `None` if there is nothing to prepare.
    pub before_saving: Option<&'a dyn Fn(usize) -> Result<(), BoxError>>,
}

/// The forward context of a micro-batch in training.
fn training(batch: &Batch, context: &StepContext) -> ForwardContext {
    let samples = context.first_sample..context.first_sample + batch.captions.batch_size() as u64;
    let keys = samples.map(|sample| sample_key(context.seed, context.step, sample));
    ForwardContext::training(keys.collect::<Vec<_>>())
}

impl CaptionTask<'_> {
    fn image_features(&self, batch: &Batch, ctx: &ForwardContext) -> Result<Tensor, BoxError> {
        if let Some(store) = &self.features {
            return Ok(store.batch(batch.captions.rows())?);
        }
        let pixel_values = batch.pixel_values(self.model.device())?;
        if self.vision_trains {
            Ok(self.model.encode_images(&pixel_values, ctx)?)
        } else {
            Ok(encode(self.model, &pixel_values)?)
        }
    }

    /// The text of a training batch.
    fn training_text(&self, batch: &Batch) -> Result<TextBatch, BoxError> {
        let (device, most) = (self.model.device(), self.model.tokens().max_length);
        let length = padded_length(batch.captions.seq_len(), most, device);
        let text = TrainingText::new(&batch.captions, length)?;
        Ok(self.model.text_batch(&text.input_ids, &text.labels, length_multiple(device))?)
    }

    fn training_loss(&self, batch: &Batch, ctx: &ForwardContext) -> Result<(Tensor, usize), BoxError> {
        let (features, text) = (self.image_features(batch, ctx)?, self.training_text(batch)?);
        Ok(self.model.text_loss(&features, &text, self.label_smoothing, ctx)?)
    }
}

impl Task for CaptionTask<'_> {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let (sum, targets) = self.training_loss(batch, &training(batch, context))?;
        Ok(LossSum { sum, targets })
    }

    fn train_segments(&self, batch: &Batch, context: &StepContext) -> Result<Segments, BoxError> {
        let ctx = training(batch, context).with_cuts();
        let (sum, targets) = self.training_loss(batch, &ctx)?;
        let cuts = ctx.take_cuts().into_iter();
        let cuts = cuts.map(|GraphCut { output, input }| Cut { output, input }).collect();
        Ok(Segments { loss: LossSum { sum, targets }, cuts })
    }

    fn train_gradients(
        &self,
        batch: &Batch,
        context: &StepContext,
        parameters: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        let Some(graphs) = self.graphs.as_ref().filter(|_| !self.vision_trains) else { return Ok(None) };
        let (model, label_smoothing) = (self.model, self.label_smoothing);
        let pass = Pass { model, parameters, label_smoothing, ctx: training(batch, context) };
        let features = match &self.features {
            Some(store) => PassFeatures::Stored(store, batch.captions.rows()),
            None => PassFeatures::Given(graphs.encode(model, &batch.pixel_values(model.device())?)?),
        };
        let (sum, targets, gradients) = graphs.run(&pass, &self.training_text(batch)?, &features)?;
        Ok(Some((LossSum { sum, targets }, gradients)))
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        let captions = CaptionBatch::concat(batches.iter().map(|batch| &batch.captions));
        Ok(Batch {
            captions: captions.ok_or("there are no batches to merge")?,
            pictures: batches.iter().flat_map(|batch| batch.pictures.clone()).collect(),
        })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        let (text, ctx) = (TrainingText::new(&batch.captions, 0)?, ForwardContext::inference());
        let text = self.model.text_batch(&text.input_ids, &text.labels, 1)?;
        let (sum, targets) = self.model.text_loss(&self.image_features(batch, &ctx)?, &text, 0.0, &ctx)?;
        Ok(LossTotal { sum: f64::from(sum.to_scalar::<f32>()?), targets })
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.captions.batch_size()
    }

    fn describe(&self, batch: &Batch) -> String {
        format!("rows {:?}", batch.captions.rows())
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.graphs.as_ref().map_or_else(Vec::new, StepGraphs::take_warnings)
    }

    fn before_saving(&self, global_step: usize) -> Result<(), BoxError> {
        self.before_saving.map_or(Ok(()), |prepare| prepare(global_step))
    }

    fn save_model(&self, directory: &Path) -> Result<(), BoxError> {
        (self.save)(directory)
    }
}
