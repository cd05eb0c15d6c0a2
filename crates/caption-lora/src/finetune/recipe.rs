use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use caption_data::PictureLoader;
use trainer_core::BoxError;

use super::{Inputs, OutputFolder, Plan, Request, Results};
use crate::batches::{CaptionBatches, References};
use crate::captioning::{Captioner, pictures};
use crate::features::FeatureStore;
use crate::judge::{Judge, Judgement};
use crate::options::Finetune;
use crate::row_order::RowOrder;
use crate::save;
use crate::step_graphs::StepGraphs;
use crate::task::CaptionTask;

/// Everything that training and evaluation need: the results of the stages before training.
pub struct Recipe<'a> {
    /// The request.
    pub request: &'a Request,
    /// The request's options.
    pub options: &'a Finetune,
    /// The output folder.
    pub folder: OutputFolder,
    /// The dataset, and the model's tokenizer and processor.
    pub inputs: Arc<Inputs>,
    /// The adapted model and the engine's arguments.
    pub plan: Plan,
    /// Cached image features.
    pub features: Option<Arc<FeatureStore>>,
    loader: PictureLoader,
}

impl<'a> Recipe<'a> {
    /// Combines the results of the stages.
    pub fn new(
        request: &'a Request,
        folder: OutputFolder,
        inputs: Arc<Inputs>,
        plan: Plan,
        features: Option<Arc<FeatureStore>>,
    ) -> Self {
        let loader = pictures(&inputs.source, &inputs.processor);
        Self { request, options: &request.options, folder, inputs, plan, features, loader }
    }

    /// Training batches.
    pub(super) fn training_batches(&self) -> CaptionBatches {
        let training = &self.options.training;
        self.batches(
            self.inputs.training_order(self.options),
            training.per_device_train_batch_size,
            References::Drawn(training.seed),
        )
    }

    /// Evaluation batches of some rows, with all captions of each row.
    pub(super) fn evaluation_batches(&self, rows: &[usize]) -> CaptionBatches {
        let batch_size = self.options.training.per_device_eval_batch_size;
        self.batches(RowOrder::fixed(rows), batch_size, References::All)
    }

    fn batches(&self, rows: RowOrder, batch_size: usize, references: References) -> CaptionBatches {
        CaptionBatches {
            captions: Arc::clone(&self.inputs.captions),
            pictures: self.features.is_none().then(|| self.loader.clone()),
            rows,
            references,
            batch_size,
            padding: self.plan.padding,
        }
    }

    /// The model with its tokenizer and pictures.
    pub(super) fn captioner(&self) -> Captioner<'_> {
        Captioner {
            model: self.plan.adapted.model.as_ref(),
            tokenizer: &self.inputs.tokenizer,
            pictures: self.loader.clone(),
            features: self.features.clone(),
            prompts: Some(&self.inputs.captions),
        }
    }

    /// The model as a task of the engine; `save` writes its trained parameters into a checkpoint's folder.
    pub(super) fn task<'t>(&'t self, save: &'t dyn Fn(&Path) -> Result<(), BoxError>) -> CaptionTask<'t> {
        let model = self.plan.adapted.model.as_ref();
        let graphs =
            (!self.options.hardware.no_cuda_graph).then(|| StepGraphs::new(model.device())).flatten();
        CaptionTask {
            model,
            graphs,
            features: self.features.clone(),
            vision_trains: self.plan.adapted.vision_trains,
            label_smoothing: self.options.training.label_smoothing_factor as f32,
            save,
            before_saving: None,
        }
    }

    /// Writes the adapter to a folder, or with full fine-tuning the whole model.
    pub(super) fn save_model(&self, to: &Path) -> Result<(), BoxError> {
        match &self.plan.adapted.adapter {
            Some(adapter) => Ok(adapter.save(to.join("adapter"))?),
            None => Ok(save::checkpoint(&self.plan.adapted.parameters, &self.inputs.dir, &to.join("model"))?),
        }
    }

    /// Evaluates the base model before training, if there are test rows and no adapter that can be disabled
    /// afterwards.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn judge_base_beforehand(&self) -> Result<Option<Judgement>> {
        if self.plan.adapted.adapter.is_some() || self.inputs.rows.test.is_empty() {
            return Ok(None);
        }
        self.judge_model("base").map(Some)
    }

    /// Evaluates the trained model and the base model on the test split; `base` is the latter's result if
    /// there is one already.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn judge(&self, base: Option<Judgement>) -> Result<Results> {
        if self.inputs.rows.test.is_empty() {
            return Ok(Results::untested());
        }
        let adapted = self.judge_model("adapted")?;
        let base = match base {
            Some(base) => base,
            None => {
                let _base = self.plan.adapted.adapter.as_ref().map(|adapter| adapter.disable());
                self.judge_model("base")?
            }
        };
        Results::new(self, base, adapted)
    }

    fn judge_model(&self, name: &str) -> Result<Judgement> {
        let save = |to: &Path| self.save_model(to);
        let judge = Judge {
            task: &self.task(&save),
            captioner: &self.captioner(),
            captions: &self.inputs.captions,
            source: &self.inputs.source,
            team: &self.plan.team,
        };
        let test = self.evaluation_batches(&self.inputs.rows.test);
        judge.judge(&test, &format!("captions of the {name} model"))
    }
}
