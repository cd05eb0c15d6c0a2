//! Fused micro-batches of captions have the same loss and gradients as separate ones. So do captions that are
//! padded for a GPU.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::sync::Arc;

use candle_core::{DType, Device};
use caption_data::{CaptionSource, Padding, TokenizedCaptions};
use caption_lora::batches::{CaptionBatches, References};
use caption_lora::captioning::pictures;
use caption_lora::embedded;
use caption_lora::features::{CachePlace, FeatureStore, Layout};
use caption_lora::finetune::Inputs;
use caption_lora::hub::Location;
use caption_lora::open::{Pretrained, pretrained};
use caption_lora::options::Finetune;
use caption_lora::pass_shape::PassShape;
use caption_lora::row_order::RowOrder;
use caption_lora::step_graphs::StepGraphs;
use caption_lora::task::CaptionTask;
use caption_lora::training_text::{TrainingText, bucketed_length};
use git_model::{CaptionModel as _, GitForCausalLm, LoadOptions};
use monster_drawings::{DrawingSource, Style};
use peft_lora::{Adapter, LoraBuilder, LoraConfig};
use proptest::prelude::*;
use train_ops::{ForwardContext, sample_key};
use trainer_core::{BatchSource, BoxError, Gradients, LossSum, Parameters, StepContext, Task};

/// The embedded model with adapters in the decoder, or in both of its parts. Their weights are not the
/// initial ones.
fn model(both: bool) -> (GitForCausalLm, Adapter) {
    let checkpoint = git_model::Checkpoint::open(embedded::checkpoint().unwrap()).unwrap();
    let mut targets = vec!["query", "key", "value", "dense"];
    if both {
        targets.extend(["q_proj", "v_proj", "fc2"]);
    }
    let config = LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.2,
        target_modules: targets.as_slice().into(),
        ..LoraConfig::default()
    };
    let mut builder = LoraBuilder::new(config).unwrap().output_layer("output").seed(3);
    let options = LoadOptions { hidden_dropout: Some(0.1), ..LoadOptions::default() };
    let model = GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
    let adapter = builder.finish().unwrap();
    for (name, parameter) in adapter.parameters() {
        if name.contains("lora_B") {
            // With lora_B at zero, lora_A would get no gradient.
            let values: Vec<f32> =
                (0..parameter.elem_count()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 2000.0).collect();
            let values = candle_core::Tensor::from_vec(values, parameter.shape(), &Device::Cpu).unwrap();
            parameter.set(&values).unwrap();
        }
    }
    (model, adapter)
}

struct Sum {
    loss: f64,
    targets: usize,
    gradients: Gradients,
}

/// The loss and the gradients of the first step's batches, with `fuse` of them per pass.
fn step(task: &CaptionTask<'_>, parameters: &Parameters, batches: &CaptionBatches, fuse: usize) -> Sum {
    let mut sum = Sum { loss: 0.0, targets: 0, gradients: Gradients::new() };
    let mut context = StepContext { seed: 11, step: 5, first_sample: 0 };
    let batches: Vec<_> = batches.epoch(0, 0).map(Result::unwrap).collect();
    for group in batches.chunks(fuse) {
        let merged = task.merge(group).unwrap();
        let loss = task.train_loss(&merged, &context).unwrap();
        context.first_sample += task.num_samples(&merged) as u64;
        sum.loss += f64::from(loss.sum.to_scalar::<f32>().unwrap());
        sum.targets += loss.targets;
        sum.gradients.accumulate(parameters, loss.sum.backward().unwrap()).unwrap();
    }
    sum
}

/// The difference of two sums: of the loss, and of the gradient that differs most relative to its norm.
fn difference(alone: &Sum, fused: &Sum, parameters: &Parameters) -> (f64, f64) {
    assert_eq!(alone.targets, fused.targets);
    let norms = alone.gradients.norms().unwrap();
    let mut difference = fused.gradients.clone();
    difference.scale(-1.0).unwrap();
    difference.add(&alone.gradients).unwrap();
    let differences = difference.norms().unwrap();
    assert_eq!(differences.iter().count(), parameters.iter().count());
    let worst = differences.iter().zip(norms.iter()).map(|((name, difference), (_, norm))| {
        assert!(norm > 0.0, "{name}");
        difference / norm
    });
    ((alone.loss - fused.loss).abs() / alone.loss, worst.fold(0.0, f64::max))
}

fn check(both: bool, rows: usize, batch_size: usize, fuse: usize, seed: u64, padding: Padding) -> (f64, f64) {
    let Pretrained { tokenizer, processor, .. } = pretrained(&Location::Embedded).unwrap();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::new(seed, rows, Style::Second, 64));
    let captions = Arc::new(TokenizedCaptions::new(&source, &tokenizer).unwrap());
    let batches = CaptionBatches {
        captions,
        pictures: Some(pictures(&source, &processor)),
        rows: RowOrder::fixed((0..rows).collect::<Vec<_>>()),
        references: References::All,
        batch_size,
        padding,
    };
    let (model, adapter) = model(both);
    let task = CaptionTask {
        model: &model,
        features: None,
        vision_trains: both,
        label_smoothing: 0.1,
        save: &|_| -> Result<(), BoxError> { Ok(()) },
        before_saving: None,
        graphs: None,
    };
    let parameters = Parameters::new(adapter.parameters()).unwrap();
    let [alone, fused] = [1, fuse].map(|fuse| step(&task, &parameters, &batches, fuse));
    difference(&alone, &fused, &parameters)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn captions_of_any_lengths_have_the_same_loss_and_gradients_together(
        both in any::<bool>(),
        (rows, batch_size, fuse) in (2..9usize, 1..4usize, 2..5usize),
        seed in 0..1000u64,
        longest in any::<bool>(),
    ) {
        let padding = if longest { Padding::Longest } else { Padding::MaxLength(40) };
        let (loss, gradient) = check(both, rows, batch_size, fuse, seed, padding);
        prop_assert!(loss <= 1e-6 && gradient <= 1e-5, "loss {loss:e}, gradient {gradient:e}");
    }
}

/// Dropout is on: its masks do not depend on padding.
#[test]
fn captions_padded_to_bucketed_length_lengths_have_the_same_loss_and_gradients() {
    let Pretrained { tokenizer, processor, .. } = pretrained(&Location::Embedded).unwrap();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::new(5, 6, Style::Second, 64));
    let captions = TokenizedCaptions::new(&source, &tokenizer).unwrap();
    let (model, adapter) = model(false);
    let parameters = Parameters::new(adapter.parameters()).unwrap();
    for rows in [vec![0, 1], vec![2, 3, 4, 5]] {
        let batch = captions.batch(&rows, Padding::Longest).unwrap();
        let pixels = pictures(&source, &processor).load(&rows).unwrap().pixel_values(&Device::Cpu).unwrap();
        let features = model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
        let ctx = ForwardContext::training((0..rows.len() as u64).collect::<Vec<_>>());
        let sum = |length| {
            let text = TrainingText::new(&batch, length).unwrap();
            assert_eq!(text.input_ids.dims(), [rows.len(), length]);
            let (loss, targets) =
                model.smoothed_loss(&features, &text.input_ids, &text.labels, 0.1, &ctx).unwrap();
            let mut gradients = Gradients::new();
            gradients.accumulate(&parameters, loss.backward().unwrap()).unwrap();
            Sum { loss: f64::from(loss.to_scalar::<f32>().unwrap()), targets, gradients }
        };
        let own = batch.seq_len();
        let padded = bucketed_length(own + 1, model.tokens().max_length);
        assert!(padded > own && padded.is_multiple_of(8));
        let (loss, gradient) = difference(&sum(own), &sum(padded), &parameters);
        assert!(loss <= 1e-6 && gradient <= 1e-5, "{own}: loss {loss:e}, gradient {gradient:e}");
    }
}

/// A device without graphs refuses to record.
#[test]
fn what_cannot_be_recorded_is_launched_and_named_in_one_warning() {
    let Pretrained { tokenizer, processor, .. } = pretrained(&Location::Embedded).unwrap();
    let source: Arc<dyn CaptionSource> = Arc::new(DrawingSource::new(5, 6, Style::Second, 64));
    let (model, adapter) = model(false);
    let parameters = Parameters::new(adapter.parameters()).unwrap();
    let loader = pictures(&source, &processor);
    let place = CachePlace { memory: usize::MAX, between_runs: None, scratch: std::env::temp_dir() };
    let rows: Vec<usize> = (0..5).collect();
    let pixels = loader.load(&[0]).unwrap().pixel_values(&Device::Cpu).unwrap();
    let one = model.encode_images(&pixels, &ForwardContext::inference()).unwrap();
    let (_, tokens, width) = one.dims3().unwrap();
    let layout = Layout { tokens, width, dtype: DType::F32 };
    let store = FeatureStore::new(&model, &loader, &rows, layout, &place).unwrap();
    for (features, words) in [
        (None, "passes of the vision encoder over 3 pictures run without a CUDA graph"),
        (Some(Arc::new(store)), "training passes of 3 captions of 40 tokens run without a CUDA graph"),
    ] {
        let batches = CaptionBatches {
            captions: Arc::new(TokenizedCaptions::new(&source, &tokenizer).unwrap()),
            pictures: features.is_none().then(|| loader.clone()),
            rows: RowOrder::fixed(rows.clone()),
            references: References::All,
            batch_size: 3,
            padding: Padding::MaxLength(40),
        };
        let task = CaptionTask {
            model: &model,
            features,
            vision_trains: false,
            label_smoothing: 0.1,
            save: &|_| -> Result<(), BoxError> { Ok(()) },
            before_saving: None,
            graphs: Some(StepGraphs::default()),
        };
        let context = StepContext { seed: 11, step: 5, first_sample: 0 };
        let mut warnings = Vec::new();
        for batch in batches.epoch(0, 0).map(Result::unwrap) {
            let loss = |loss: LossSum| loss.sum.to_scalar::<f32>().unwrap();
            let expected = loss(task.train_loss(&batch, &context).unwrap());
            for time in 1..4 {
                let (found, _) = task.train_gradients(&batch, &context, &parameters).unwrap().unwrap();
                assert_eq!(loss(found), expected);
                warnings.extend(task.take_warnings().iter().map(|warning| (time, warning.to_string())));
            }
        }
        let [(2, warning)] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with(words), "{warning}");
    }
}

/// The number of shapes of passes, each of which is a graph, for captions of these lengths. `pad` computes the
/// length of a pass from that of its longest caption.
fn shapes<'a>(passes: impl Iterator<Item = &'a [usize]>, pad: fn(usize) -> usize) -> usize {
    let shape = |lengths: &[usize]| {
        let targets = lengths.iter().map(|length| length - 1).sum();
        PassShape::new(lengths.len(), pad(lengths.iter().copied().max().unwrap_or(0)), targets)
    };
    passes.map(shape).collect::<HashSet<_>>().len()
}

/// The shapes of passes over these captions with 1, 2 and 4 fused micro-batches of 2: without padding to a few
/// lengths, and with it, as on a GPU.
fn count(lengths: &[usize]) -> [[usize; 2]; 3] {
    [2, 4, 8].map(|size| {
        let passes = || lengths.chunks(size);
        [shapes(passes(), |length| length), shapes(passes(), |length| bucketed_length(length, 1024))]
    })
}

#[test]
fn a_few_graphs_serve_all_passes_of_a_run_on_a_gpu() {
    let options = Finetune::default();
    let (_, inputs) = Inputs::open(&options).unwrap();
    let rows = (0..5).flat_map(|epoch| inputs.training_order(&options).epoch(epoch, 0));
    let drawings: Vec<usize> = rows.map(|row| inputs.captions.ids(row).unwrap().len()).collect();
    assert_eq!(count(&drawings), [[12, 3], [11, 3], [11, 5]], "five epochs of the default run");
    let lengths: Vec<usize> = (0..4000).map(|row| 5 + (sample_key(1, 0, row) % 60) as usize).collect();
    assert_eq!(count(&lengths), [[111, 16], [135, 23], [116, 24]], "captions of 5 to 64 tokens");
}
