//! A small network with the properties of a captioning task: several targets per sample, some of them masked, and dropout
//! that depends only on the position in the run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor, Var};
use trainer_core::{
    BatchSource, Batches, BoxError, Event, EventSink, IntervalStrategy, LogEntry, LossSum, LossTotal,
    Parameters, StepContext, StopSignal, Task, TrainerState, TrainingArguments, epoch_order,
};

pub(crate) const FEATURES: usize = 4;
pub(crate) const HIDDEN: usize = 8;
pub(crate) const TARGETS: usize = 3;
pub(crate) const CLASSES: usize = 5;

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) x: Vec<f32>,
    /// A class for each target, or -100.
    pub(crate) labels: Vec<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) numbers: Vec<usize>,
    pub(crate) x: Tensor,
    pub(crate) labels: Vec<i64>,
}

pub(crate) fn batch(rows: &[Row], numbers: &[usize]) -> Batch {
    let x: Vec<f32> = numbers.iter().flat_map(|&number| rows[number].x.clone()).collect();
    let labels = numbers.iter().flat_map(|&number| rows[number].labels.clone()).collect();
    let x = Tensor::from_vec(x, (numbers.len(), FEATURES), &Device::Cpu).unwrap();
    Batch { numbers: numbers.to_vec(), x, labels }
}

/// Rows in batches of a size, the last one smaller; shuffled every epoch if there is a seed.
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    pub(crate) batch_size: usize,
    pub(crate) shuffle: Option<u64>,
}

impl BatchSource for Rows {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.rows.len().div_ceil(self.batch_size)
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Batch> {
        let order = match self.shuffle {
            Some(seed) => epoch_order(seed, epoch, self.rows.len()),
            None => (0..self.rows.len()).collect(),
        };
        let chunks: Vec<_> = order.chunks(self.batch_size).skip(first_batch).map(<[usize]>::to_vec).collect();
        Box::new(chunks.into_iter().map(|numbers| Ok(batch(&self.rows, &numbers))))
    }
}

/// Rows drawn from a seed; about two in five targets are masked.
pub(crate) fn random_rows(seed: u64, count: usize) -> Vec<Row> {
    let row = |number: usize| {
        let mut draws = (0..).map(|draw| uniform(&[seed, number as u64, draw]));
        let x = draws.by_ref().take(FEATURES).map(|u| 4.0 * u - 2.0).collect();
        let labels = (0..TARGETS).map(|_| {
            let (masked, class) = (draws.next().unwrap() < 0.4, draws.next().unwrap());
            if masked { -100 } else { (class * CLASSES as f32) as i64 }
        });
        Row { x, labels: labels.collect() }
    };
    (0..count).map(row).collect()
}

/// The same rows with other classes: the better a model fits the original, the worse it fits these.
pub(crate) fn contrary(rows: &[Row]) -> Vec<Row> {
    let other = |&label: &i64| if label == -100 { label } else { (label + 1) % CLASSES as i64 };
    rows.iter().map(|row| Row { x: row.x.clone(), labels: row.labels.iter().map(other).collect() }).collect()
}

/// A number in [0, 1) that depends only on the key.
pub(crate) fn uniform(key: &[u64]) -> f32 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let hash = key.iter().fold(0, |hash, &part| mix(hash ^ part.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    (hash >> 40) as f32 / (1u64 << 24) as f32
}

/// Linear, tanh, dropout, linear.
pub(crate) struct Mlp {
    pub(crate) variables: BTreeMap<String, Var>,
    pub(crate) dropout: f32,
}

impl Mlp {
    pub(crate) fn new(seed: u64) -> Self {
        let shapes: [(&str, &[usize]); 4] = [
            ("l1.bias", &[HIDDEN]),
            ("l1.weight", &[HIDDEN, FEATURES]),
            ("l2.bias", &[TARGETS * CLASSES]),
            ("l2.weight", &[TARGETS * CLASSES, HIDDEN]),
        ];
        let variable = |index: usize, shape: &[usize]| {
            let count = shape.iter().product::<usize>() as u64;
            let values = (0..count).map(|element| uniform(&[seed, index as u64, element]) - 0.5).collect();
            Var::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let variables = shapes.iter().enumerate();
        let variables =
            variables.map(|(index, (name, shape))| ((*name).to_owned(), variable(index, shape))).collect();
        Self { variables, dropout: 0.0 }
    }

    pub(crate) fn with_dropout(seed: u64, dropout: f32) -> Self {
        Self { dropout, ..Self::new(seed) }
    }

    pub(crate) fn parameters(&self) -> Parameters {
        Parameters::new(self.variables.clone()).unwrap()
    }

    /// All parameters, bit by bit.
    pub(crate) fn bits(&self) -> BTreeMap<String, Vec<u32>> {
        let bits = |variable: &Var| values(variable).into_iter().map(f32::to_bits).collect();
        self.variables.iter().map(|(name, variable)| (name.clone(), bits(variable))).collect()
    }

    pub(crate) fn logits(&self, batch: &Batch, mask: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let [b1, w1, b2, w2] =
            ["l1.bias", "l1.weight", "l2.bias", "l2.weight"].map(|name| self.variables[name].as_tensor());
        let hidden = batch.x.matmul(&w1.t()?)?.broadcast_add(b1)?.tanh()?;
        let hidden = mask.map_or(Ok(hidden.clone()), |mask| hidden.mul(mask))?;
        hidden.matmul(&w2.t()?)?.broadcast_add(b2)?.reshape((batch.numbers.len() * TARGETS, CLASSES))
    }

    fn dropout_mask(&self, samples: usize, context: &StepContext) -> candle_core::Result<Tensor> {
        let keep = 1.0 - self.dropout;
        let element = |sample: u64, element: u64| {
            let u = uniform(&[context.seed, context.step, context.first_sample + sample, element]);
            if u < keep { 1.0 / keep } else { 0.0 }
        };
        let mask =
            (0..samples as u64).flat_map(|sample| (0..HIDDEN as u64).map(move |index| (sample, index)));
        let mask: Vec<f32> = mask.map(|(sample, index)| element(sample, index)).collect();
        Tensor::from_vec(mask, (samples, HIDDEN), &Device::Cpu)
    }
}

impl Task for Mlp {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let mask = self.dropout_mask(batch.numbers.len(), context)?;
        Ok(cross_entropy(&self.logits(batch, Some(&mask))?, &batch.labels)?)
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        let x: Vec<&Tensor> = batches.iter().map(|batch| &batch.x).collect();
        Ok(Batch {
            numbers: batches.iter().flat_map(|batch| batch.numbers.clone()).collect(),
            x: Tensor::cat(&x, 0)?,
            labels: batches.iter().flat_map(|batch| batch.labels.clone()).collect(),
        })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        let LossSum { sum, targets } = cross_entropy(&self.logits(batch, None)?, &batch.labels)?;
        Ok(LossTotal { sum: f64::from(sum.to_scalar::<f32>()?), targets })
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        batch.numbers.len()
    }

    fn describe(&self, batch: &Batch) -> String {
        let numbers: Vec<_> = batch.numbers.iter().map(ToString::to_string).collect();
        format!("rows {}", numbers.join(", "))
    }

    fn save_model(&self, directory: &Path) -> Result<(), BoxError> {
        Ok(std::fs::write(directory.join("model.txt"), "the task's own format")?)
    }
}

/// Sum over the labels that are not -100, in operations with a backward pass.
fn cross_entropy(logits: &Tensor, labels: &[i64]) -> candle_core::Result<LossSum> {
    let one_hot =
        labels.iter().flat_map(|&label| (0..CLASSES as i64).map(move |class| f32::from(class == label)));
    let one_hot = Tensor::from_vec(one_hot.collect::<Vec<_>>(), logits.shape(), logits.device())?;
    let log_probabilities = logits.broadcast_sub(&logits.exp()?.sum_keepdim(1)?.log()?)?;
    let sum = (log_probabilities * one_hot)?.sum_all()?.neg()?;
    Ok(LossSum { sum, targets: labels.iter().filter(|&&label| label != -100).count() })
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A short run with a high learning rate: steps of 4 micro-batches; evaluation, checkpoint and best parameters every epoch.
pub(crate) fn arguments(output_dir: &Path) -> TrainingArguments {
    TrainingArguments {
        num_train_epochs: 3.0,
        learning_rate: 0.05,
        warmup_ratio: 0.05,
        gradient_accumulation_steps: 4,
        eval_strategy: IntervalStrategy::Epoch,
        save_strategy: IntervalStrategy::Epoch,
        logging_steps: 1,
        load_best_model_at_end: true,
        ..TrainingArguments::new(output_dir)
    }
}

/// An error with its causes in one line.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A sink that records all events, and the recorded events.
pub(crate) fn recorder() -> (impl EventSink + 'static, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let kept = events.clone();
    let sink = move |event: &Event| -> Result<(), BoxError> {
        kept.lock().unwrap().push(event.clone());
        Ok(())
    };
    (sink, events)
}

/// A sink that requests a stop in the given step, and its signal.
pub(crate) fn stop_in_step(step: usize) -> (impl EventSink + 'static, StopSignal) {
    let stop = StopSignal::new();
    let raise = stop.clone();
    let sink = move |event: &Event| -> Result<(), BoxError> {
        if matches!(event, Event::Step(report) if report.global_step == step) {
            raise.request();
        }
        Ok(())
    };
    (sink, stop)
}

/// The log without the measured times.
pub(crate) fn untimed(state: &TrainerState) -> Vec<LogEntry> {
    let untimed = |entry: &LogEntry| match entry.clone() {
        LogEntry::Evaluation { eval_loss, metrics, epoch, step, .. } => LogEntry::Evaluation {
            eval_loss,
            metrics,
            eval_runtime: 0.0,
            eval_samples_per_second: 0.0,
            eval_steps_per_second: 0.0,
            epoch,
            step,
        },
        LogEntry::Summary { train_loss, epoch, step, .. } => LogEntry::Summary {
            train_runtime: 0.0,
            train_samples_per_second: 0.0,
            train_steps_per_second: 0.0,
            train_loss,
            epoch,
            step,
        },
        entry => entry,
    };
    state.log_history.iter().map(untimed).collect()
}
