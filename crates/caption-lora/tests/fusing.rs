//! Fused micro-batches of captions have the same loss and gradients as separate ones.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use candle_core::Device;
use caption_data::{CaptionSource, Padding, TokenizedCaptions};
use caption_lora::captioning::pictures;
use caption_lora::embedded;
use caption_lora::hub::Location;
use caption_lora::open::{Pretrained, pretrained};
use caption_lora::row_order::RowOrder;
use caption_lora::task::{CaptionBatches, CaptionTask, References};
use git_model::{GitForCausalLm, LoadOptions};
use monster_drawings::{DrawingSource, Style};
use peft_lora::{Adapter, LoraBuilder, LoraConfig};
use proptest::prelude::*;
use trainer_core::{BatchSource, BoxError, Gradients, Parameters, StepContext, Task};

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
