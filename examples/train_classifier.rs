//! The training engine on a model of your own: on which of two spirals, wound into each other, does a point lie?
//! `cargo run --release --example train_classifier`
use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use trainer_core::sinks::ConsoleSink;
use trainer_core::{BoxError, LossSum, LossTotal, Measured, Metric, Parameters, Ratio};
use trainer_core::{StepContext, Task, Trainer, TrainingArguments};

type Batch = (Tensor, Tensor); // points `(samples, 2)`; their classes, 1 or -1, `(samples, 1)`
struct Network(BTreeMap<String, Var>);

impl Network {
    fn new() -> Result<Self> {
        let variable = |(name, rows, columns): (&str, usize, usize)| {
            let numbers = (0..rows * columns).map(|i| 0.5 * (0.7 * (i * i) as f32).sin()).collect();
            Ok((name.to_owned(), Var::from_vec(numbers, (rows, columns), &Device::Cpu)?))
        };
        let shapes = [("hidden.weight", 2, 64), ("hidden.bias", 1, 64), ("output.weight", 64, 1)];
        Ok(Self(shapes.into_iter().map(variable).collect::<Result<_>>()?))
    }

    /// How far each point is on the right side, `(samples, 1)`.
    fn margins(&self, (points, classes): &Batch) -> Result<Tensor> {
        let hidden = points.matmul(&self.0["hidden.weight"])?.broadcast_add(&self.0["hidden.bias"])?;
        Ok((hidden.tanh()?.matmul(&self.0["output.weight"])? * classes)?)
    }
}

impl Task for Network {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, _: &StepContext) -> Result<LossSum, BoxError> {
        let losses = (self.margins(batch)?.neg()?.exp()? + 1.0)?.log()?;
        Ok(LossSum { sum: losses.sum_all()?, targets: self.num_samples(batch) })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        let LossSum { sum, targets } = self.train_loss(batch, &StepContext::default())?;
        Ok(LossTotal { sum: sum.to_scalar::<f32>()?.into(), targets })
    }

    fn measure(&self, batch: &Batch) -> Result<Measured, BoxError> {
        let hits = self.margins(batch)?.gt(0f32)?.to_dtype(candle_core::DType::F64)?.sum_all()?;
        let loss = self.eval_loss(batch)?;
        let ratio = Ratio { numerator: hits.to_scalar()?, denominator: loss.targets as f64 };
        Ok(Measured::new(loss).with(Metric::ACCURACY, ratio))
    }

    fn num_samples(&self, (points, _): &Batch) -> usize {
        points.dims()[0]
    }
}

/// Sixty-four points, at distances from the middle that no other batch has.
fn batch(number: usize) -> Result<Batch> {
    let radius = |i: usize| ((i * 37 + number) % 960) as f32 / 960.0;
    let spiral = (0..64).map(radius).flat_map(|r| [r * (6.0 * r).sin(), r * (6.0 * r).cos()]);
    let classes = (0..64).map(|i| if i % 2 == 0 { 1f32 } else { -1.0 });
    let classes = Tensor::from_vec(classes.collect(), (64, 1), &Device::Cpu)?;
    Ok((Tensor::from_vec(spiral.collect(), (64, 2), &Device::Cpu)?.broadcast_mul(&classes)?, classes))
}

fn main() -> Result<()> {
    let network = Network::new()?;
    let training = (0..10).map(batch).collect::<Result<Vec<_>>>()?;
    let validation = (10..15).map(batch).collect::<Result<Vec<_>>>()?;
    let arguments = TrainingArguments {
        output_dir: std::env::temp_dir().join("train_classifier"),
        overwrite_output_dir: true,
        num_train_epochs: 60.0,
        gradient_accumulation_steps: 1,
        learning_rate: 0.05,
        ..Default::default()
    };
    let trainer = Trainer::new(arguments, Parameters::new(network.0.clone())?)?.sink(ConsoleSink::new());
    let _finished = trainer.fit(&network, &training, Some(&validation))?;
    Ok(())
}
