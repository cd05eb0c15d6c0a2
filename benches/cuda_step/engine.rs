//! Steps as a fine-tuning run takes them: the training engine with the captioning task, cached image features and CUDA graphs.

use std::sync::{Arc, mpsc};

use candle_core::{DType, Tensor};
use caption_data::{CaptionSource, Padding, TokenizedCaptions};
use caption_lora::batches::{CaptionBatches, References};
use caption_lora::features::{CachePlace, FeatureStore, Layout};
use caption_lora::hub::Location;
use caption_lora::open::pretrained;
use caption_lora::row_order::RowOrder;
use caption_lora::step_graphs::StepGraphs;
use caption_lora::task::CaptionTask;
use git_model::{CaptionModel as _, GitForCausalLm};
use monster_drawings::{DrawingSource, Style};
use train_ops::ForwardContext;
use trainer_core::{
    BatchSource, BoxError, Event, IntervalStrategy, Parameters, Task, Trainer, TrainingArguments, Warning,
};

use super::common;
use super::phases::count_as;

/// In the first two steps, pass and optimizer are launched and recorded. The third is counted. Those after it are measured.
const STEPS: usize = 4;
/// Tokens that captions are padded to.
const LENGTH: usize = 24;

/// Trains with one micro-batch a step, and with two, which is only counted. Returns the median seconds of a step with one; `runs` of
/// them are measured.
pub(crate) fn steps(model: &GitForCausalLm, parameters: &Parameters, batch: usize, runs: usize) -> f64 {
    let one = run(model, parameters, (batch, runs), 1, "5 step of a run");
    run(model, parameters, (batch, 1), 2, "5 step of two micro-batches");
    one
}

fn run(
    model: &GitForCausalLm,
    parameters: &Parameters,
    (batch, runs): (usize, usize),
    micro_batches: usize,
    phase: &'static str,
) -> f64 {
    let store = features(model, batch);
    let tokenizer = pretrained(&Location::Embedded).unwrap().tokenizer;
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::new(5, batch, Style::Second, 64));
    // The same rows in each micro-batch, so that all have one shape.
    let rows: Vec<usize> = (0..micro_batches).flat_map(|_| 0..batch).collect();
    let batches = CaptionBatches {
        captions: Arc::new(TokenizedCaptions::new(&source, &tokenizer).unwrap()),
        pictures: None,
        rows: RowOrder::fixed(rows),
        references: References::Drawn(1),
        batch_size: batch,
        padding: Padding::MaxLength(LENGTH),
    };
    let task = CaptionTask {
        model,
        features: Some(Arc::new(store)),
        vision_trains: false,
        label_smoothing: 0.0,
        save: &|_| -> Result<(), BoxError> { Ok(()) },
        before_saving: None,
        graphs: StepGraphs::new(model.device()),
    };
    measure(&task, &batches, parameters, (micro_batches, runs), phase)
}

/// Takes `runs` steps, after those that record, and returns the median of their seconds.
///
/// # Panics
/// If a step fails, or if what should be a graph could not be recorded.
pub(crate) fn measure<T: Task>(
    task: &T,
    batches: &dyn BatchSource<Batch = T::Batch>,
    parameters: &Parameters,
    (micro_batches, runs): (usize, usize),
    phase: &'static str,
) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        max_steps: Some(STEPS.max(STEPS - 1 + runs)),
        gradient_accumulation_steps: micro_batches,
        save_strategy: IntervalStrategy::No,
        ..TrainingArguments::new(folder.path())
    };
    let (seconds, measured) = mpsc::channel();
    let sink = move |event: &Event| -> Result<(), BoxError> {
        if let Event::Step(step) = event {
            println!(
                "{phase}, step {}: loss {:.6}, {:.2} ms",
                step.global_step,
                step.loss,
                1e3 * step.seconds
            );
            if step.global_step >= STEPS {
                seconds.send(step.seconds)?;
            }
            count_as(if step.global_step == 2 { phase } else { "6 other steps" });
        }
        match event {
            Event::Warning(warning @ Warning::GraphNotRecorded { .. }) => Err(warning.to_string().into()),
            _ => Ok(()),
        }
    };
    let trainer = Trainer::new(arguments, parameters.clone()).unwrap().sink(sink);
    let _finished = trainer.fit(task, batches, None).unwrap();
    count_as("6 end");
    common::median(measured.try_iter().collect())
}

/// The features of as many pictures, in the device's memory.
fn features(model: &GitForCausalLm, pictures: usize) -> FeatureStore {
    let size = model.config().vision_config.image_size;
    let encode = |rows: Vec<usize>| {
        let pixels = common::values(7, (rows.len(), 3, size, size), model.device());
        let features = model.encode_images(&pixels, &ForwardContext::inference())?.detach();
        Ok(std::iter::once(Ok(features)))
    };
    let one = model
        .encode_images(
            &Tensor::zeros((1, 3, size, size), DType::F32, model.device()).unwrap(),
            &ForwardContext::inference(),
        )
        .unwrap();
    let (_, tokens, width) = one.dims3().unwrap();
    let layout = Layout { tokens, width, dtype: DType::F32 };
    let place = CachePlace { memory: usize::MAX, between_runs: None, scratch: std::env::temp_dir() };
    let rows: Vec<(usize, u128)> = (0..pictures).map(|row| (row, row as u128)).collect();
    FeatureStore::fill(&rows, layout, model.device(), &place, encode).unwrap()
}
