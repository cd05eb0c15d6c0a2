//! The step that `benches/cuda/reference_step.py` takes too: pictures that are in the device's memory are encoded, and captions of 16
//! tokens go forward and backward. The training engine takes it as in a run with `--no-feature-cache`: the vision encoder, the passes,
//! and norm, clipping and AdamW are a CUDA graph each.

use std::path::Path;

use candle_core::{Device, Tensor};
use caption_lora::features::PassFeatures;
use caption_lora::step_graphs::{Pass, StepGraphs};
use caption_lora::training_text::length_multiple;
use git_model::{CaptionModel as _, GitForCausalLm};
use trainer_core::{BoxError, Gradients, LossSum, LossTotal, Parameters, StepContext, Task, Warning};

use super::{TOKENS, captions, common, engine, training};

#[derive(Clone)]
struct Batch {
    /// On the device.
    pixel_values: Tensor,
    /// On the CPU, as all text of a run.
    input_ids: Tensor,
    labels: Vec<Vec<i64>>,
}

struct EncodedTask<'a> {
    model: &'a GitForCausalLm,
    graphs: StepGraphs,
}

/// The median seconds of a step; `runs` of them are measured.
pub(crate) fn steps(model: &GitForCausalLm, parameters: &Parameters, batch: usize, runs: usize) -> f64 {
    let size = model.config().vision_config.image_size;
    let (input_ids, labels) = captions(model, batch, 0);
    let pixel_values = common::values(7, (batch, 3, size, size), model.device());
    let input_ids = input_ids.to_device(&Device::Cpu).unwrap();
    let batches = vec![Batch { pixel_values, input_ids, labels }];
    let task = EncodedTask { model, graphs: StepGraphs::new(model.device()).expect("a GPU") };
    engine::measure(&task, &batches, parameters, (1, runs), "5 step that encodes pictures")
}

impl Task for EncodedTask<'_> {
    type Batch = Batch;

    fn train_gradients(
        &self,
        batch: &Batch,
        context: &StepContext,
        parameters: &Parameters,
    ) -> Result<Option<(LossSum, Gradients)>, BoxError> {
        let ctx = training(self.num_samples(batch), context.step);
        let pass = Pass { model: self.model, parameters, label_smoothing: 0.0, ctx };
        let features = PassFeatures::Given(self.graphs.encode(self.model, &batch.pixel_values)?);
        let multiple = length_multiple(self.model.device());
        let text = self.model.text_batch(&batch.input_ids, &batch.labels, multiple)?;
        let (sum, targets, gradients) = self.graphs.run(&pass, &text, &features)?;
        assert_eq!(targets, (TOKENS - 1) * self.num_samples(batch));
        Ok(Some((LossSum { sum, targets }, gradients)))
    }

    fn train_loss(&self, _: &Batch, _: &StepContext) -> Result<LossSum, BoxError> {
        Err("the passes of this bench are graphs".into())
    }

    fn eval_loss(&self, _: &Batch) -> Result<LossTotal, BoxError> {
        Err("this bench does not evaluate".into())
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.labels.len()
    }

    fn take_warnings(&self) -> Vec<Warning> {
        self.graphs.take_warnings()
    }

    fn save_model(&self, _: &Path) -> Result<(), BoxError> {
        Ok(())
    }
}
