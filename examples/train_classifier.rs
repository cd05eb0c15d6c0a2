//! The training engine on your own model, a classifier of points on two intertwined spirals: `cargo run
//! --release --example train_classifier`
use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use trainer_core::sinks::ConsoleSink;
use trainer_core::{BoxError, InMemory, IntervalStrategy, LossSum, LossTotal, Measured, Metric, Parameters};
use trainer_core::{Ratio, StepContext, Task, Trainer, TrainingArguments};

type Sample = ([f32; 2], f32); // a point and its spiral, 1 or -1
struct Network(BTreeMap<String, Var>);

impl Network {
    /// One number per sample: above 0 if the network classifies it correctly.
    fn margins(&self, samples: &[Sample]) -> Result<Tensor> {
        let (points, classes): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
        let points = Tensor::from_vec(points.concat(), (samples.len(), 2), &Device::Cpu)?;
        let classes = Tensor::from_vec(classes, (samples.len(), 1), &Device::Cpu)?;
        let hidden = points.matmul(&self.0["hidden.weight"])?.broadcast_add(&self.0["hidden.bias"])?;
        Ok((hidden.tanh()?.matmul(&self.0["output.weight"])? * classes)?)
    }
}

impl Task for Network {
    type Batch = Vec<Sample>;

    fn train_loss(&self, samples: &Vec<Sample>, _: &StepContext) -> Result<LossSum, BoxError> {
        let losses = (self.margins(samples)?.neg()?.exp()? + 1.0)?.log()?;
        Ok(LossSum { sum: losses.sum_all()?, targets: samples.len() })
    }

    fn eval_loss(&self, samples: &Vec<Sample>) -> Result<LossTotal, BoxError> {
        Ok(self.train_loss(samples, &StepContext::default())?.total()?)
    }

    fn measure(&self, samples: &Vec<Sample>) -> Result<Measured, BoxError> {
        let correct = self.margins(samples)?.gt(0f32)?.to_dtype(DType::F64)?.sum_all()?.to_scalar()?;
        let accuracy = Ratio { numerator: correct, denominator: samples.len() as f64 };
        Ok(Measured::new(self.eval_loss(samples)?).with(Metric::ACCURACY, accuracy))
    }

    fn num_samples(&self, samples: &Vec<Sample>) -> usize {
        samples.len()
    }
}

/// Samples alternate between the spirals and move outwards.
fn sample(index: usize) -> Sample {
    let (radius, class) = (index as f32 / 960.0, if index.is_multiple_of(2) { 1.0 } else { -1.0 });
    ([(6.0 * radius).sin(), (6.0 * radius).cos()].map(|coordinate| class * radius * coordinate), class)
}

fn main() -> Result<()> {
    let variable = |(name, rows, columns): (&str, usize, usize)| {
        let values = (0..rows * columns).map(|i| 0.5 * (0.7 * (i * i) as f32).sin()).collect();
        Ok((name.to_owned(), Var::from_vec(values, (rows, columns), &Device::Cpu)?))
    };
    let shapes = [("hidden.weight", 2, 64), ("hidden.bias", 1, 64), ("output.weight", 64, 1)];
    let network = Network(shapes.into_iter().map(variable).collect::<Result<_>>()?);

    let (validation, training) = (0..960).partition::<Vec<usize>, _>(|index| index.is_multiple_of(3));
    let samples = |indices: Vec<usize>| indices.into_iter().map(sample).collect();
    let training = InMemory::new(samples(training), 64)?.shuffled(42);
    let validation = InMemory::new(samples(validation), 64)?;

    let arguments = TrainingArguments {
        overwrite_output_dir: true,
        num_train_epochs: 60.0,
        learning_rate: 0.05,
        warmup_ratio: 0.05,
        eval_strategy: IntervalStrategy::Epoch,
        ..TrainingArguments::new(std::env::temp_dir().join("train_classifier"))
    };
    let trainer = Trainer::new(arguments, Parameters::new(network.0.clone())?)?.sink(ConsoleSink::new());
    let _finished = trainer.fit(&network, &training, Some(&validation))?;
    Ok(())
}
