//! Workers send the gradients of a large model while the backward pass runs: with the bits of one worker, whatever happens.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, Var};

use super::common::message;
use trainer_core::{
    BoxError, Cut, Exchange, InMemory, IntervalStrategy, LossSum, LossTotal, OptimizerType, Outcome,
    Parameters, Segments, StepContext, Task, ThreadWorkers, Trainer, TrainingArguments, Workers,
};

/// Events of a worker, which are listed in the order in which they occur.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    /// An exchange of numbers is started.
    Start,
    /// The backward pass has reached the first layer of the model.
    FirstLayer,
}

type Events = Arc<Mutex<Vec<Event>>>;

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Error,
    Panic,
}

const WIDTH: usize = 1200;
const LAYERS: usize = 4;

/// Layers of 1.4 million numbers each, of which an exchange has at most 2.1 million. A last layer shares the weight of
/// the first, and so completes no gradient.
struct Deep {
    layers: Vec<Var>,
    events: Events,
    /// Fails when the backward pass of this step, from 0, reaches the first layer.
    fault: Option<(u64, Fault)>,
}

impl Deep {
    fn new(events: Events, fault: Option<(u64, Fault)>) -> Self {
        let weight = |layer: usize| {
            let value = |index: usize| ((index * 31 + layer * 7) % 1013) as f32 / 1013.0 - 0.5;
            let values: Vec<f32> = (0..WIDTH * WIDTH).map(value).collect();
            Var::from_vec(values, (WIDTH, WIDTH), &Device::Cpu).unwrap()
        };
        Self { layers: (0..LAYERS).map(weight).collect(), events, fault }
    }

    fn parameters(&self) -> Parameters {
        let names = self.layers.iter().enumerate();
        Parameters::new(names.map(|(layer, weight)| (format!("layer{layer}"), weight.clone()))).unwrap()
    }

    fn bits(&self) -> Vec<u32> {
        let values = |layer: &Var| layer.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        self.layers.iter().flat_map(values).map(f32::to_bits).collect()
    }

    fn loss(
        &self,
        samples: &[usize],
        step: u64,
        cut: impl Fn(&Tensor) -> Tensor,
    ) -> candle_core::Result<LossSum> {
        let value = |sample: usize, index: usize| ((sample * 17 + index * 3) % 101) as f32 / 101.0;
        let rows = samples.iter().flat_map(|sample| (0..WIDTH).map(|index| value(*sample, index)));
        let mut hidden = Tensor::from_vec(rows.collect::<Vec<_>>(), (samples.len(), WIDTH), &Device::Cpu)?;
        let fault = self.fault.filter(|(at, _)| *at == step).map(|(_, fault)| fault);
        for (layer, weight) in self.layers.iter().chain(self.layers.first()).enumerate() {
            hidden = (cut(&hidden).matmul(weight)? / WIDTH as f64)?;
            if layer == 0 {
                hidden = hidden.apply_op1(Watched { events: self.events.clone(), fault })?;
            }
        }
        // Some batches have no targets.
        let targets = if samples.contains(&5) { 0 } else { samples.len() };
        Ok(LossSum { sum: hidden.sqr()?.sum_all()?, targets })
    }
}

impl Task for Deep {
    type Batch = Vec<usize>;

    fn train_loss(&self, batch: &Vec<usize>, context: &StepContext) -> Result<LossSum, BoxError> {
        Ok(self.loss(batch, context.step, Tensor::clone)?)
    }

    fn train_segments(&self, batch: &Vec<usize>, context: &StepContext) -> Result<Segments, BoxError> {
        let cuts = Mutex::new(Vec::new());
        let loss = self.loss(batch, context.step, |output| {
            if !output.track_op() {
                return output.clone();
            }
            let input = Var::from_tensor(&output.detach()).unwrap().into_inner();
            cuts.lock().unwrap().push(Cut { output: output.clone(), input: input.clone() });
            input
        })?;
        Ok(Segments { loss, cuts: cuts.into_inner().unwrap() })
    }

    fn eval_loss(&self, batch: &Vec<usize>) -> Result<LossTotal, BoxError> {
        Ok(self.train_loss(batch, &StepContext::default())?.total()?)
    }

    fn num_samples(&self, batch: &Vec<usize>) -> usize {
        batch.len()
    }
}

/// The identity. Its backward pass is recorded, and may fail.
struct Watched {
    events: Events,
    fault: Option<Fault>,
}

impl CustomOp1 for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.events.lock().unwrap().push(Event::FirstLayer);
        match self.fault {
            None => Ok(Some(gradient.clone())),
            Some(Fault::Error) => candle_core::bail!("the first layer is damaged"),
            Some(Fault::Panic) => panic!("the first layer is damaged"),
        }
    }
}

/// A connection with the required methods only, so that an exchange begins when it is waited for.
struct Plain(ThreadWorkers);

impl Workers for Plain {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn count(&self) -> usize {
        self.0.count()
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        self.0.gather(message)
    }

    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.0.exchange(numbers, to, from)
    }

    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.0.gather_numbers(numbers, lengths)
    }
}

/// Workers whose exchanges are recorded.
struct Recorded {
    workers: Box<dyn Workers>,
    events: Events,
}

impl Workers for Recorded {
    fn rank(&self) -> usize {
        self.workers.rank()
    }

    fn count(&self) -> usize {
        self.workers.count()
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        self.workers.gather(message)
    }

    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.workers.exchange(numbers, to, from)
    }

    fn start_exchange<'a>(
        &'a self,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Box<dyn Exchange + 'a>, BoxError> {
        self.events.lock().unwrap().push(Event::Start);
        self.workers.start_exchange(numbers, to, from)
    }

    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.workers.gather_numbers(numbers, lengths)
    }

    fn leave(&self, reason: &str) {
        self.workers.leave(reason);
    }
}

/// The bits of the trained parameters and the events of a worker.
type Trained = (trainer_core::Result<Outcome>, Vec<u32>, Vec<Event>);

/// Trains 3 steps of 5 batches of 2 samples, one batch a pass.
fn train(workers: Option<Box<dyn Workers>>, directory: &Path, fault: Option<(u64, Fault)>) -> Trained {
    let events = Events::default();
    let deep = Deep::new(events.clone(), fault);
    let arguments = TrainingArguments {
        num_train_epochs: 1.0,
        gradient_accumulation_steps: 5,
        learning_rate: 0.1,
        optim: OptimizerType::Sgd,
        eval_strategy: IntervalStrategy::No,
        save_strategy: IntervalStrategy::No,
        load_best_model_at_end: false,
        ..TrainingArguments::new(directory)
    };
    let mut trainer = Trainer::new(arguments, deep.parameters()).unwrap();
    if let Some(workers) = workers {
        trainer = trainer.workers(Arc::new(Recorded { workers, events: events.clone() }));
    }
    let outcome = trainer.fit(&deep, &InMemory::new((0..30).collect(), 2).unwrap(), None);
    let events = events.lock().unwrap().clone();
    (outcome, deep.bits(), events)
}

/// The results of all workers, by rank; an error for a thread that panicked. Only the last worker has the fault.
fn train_together(
    count: usize,
    plain: bool,
    fault: Option<(u64, Fault)>,
) -> Vec<Result<Trained, Box<dyn std::any::Any + Send>>> {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    thread::scope(|scope| {
        let run = |workers: ThreadWorkers| {
            let fault = fault.filter(|_| workers.rank() + 1 == count);
            let workers: Box<dyn Workers> = if plain { Box::new(Plain(workers)) } else { Box::new(workers) };
            scope.spawn(move || train(Some(workers), directory, fault))
        };
        let threads: Vec<_> = ThreadWorkers::new(count).into_iter().map(run).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    })
}

#[test]
fn gradients_that_are_sent_during_the_backward_pass_train_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let (outcome, alone, _) = train(None, directory.path(), None);
    assert_eq!(outcome.unwrap().state().global_step, 3);
    for (count, plain) in [(2, false), (2, true), (3, false), (4, false), (6, false)] {
        for worker in train_together(count, plain, None) {
            let (outcome, bits, _) = worker.unwrap();
            assert_eq!(outcome.unwrap().state().global_step, 3);
            assert!(bits == alone, "{count} workers");
        }
    }
}

#[test]
fn the_first_gradients_are_sent_before_the_backward_pass_ends() {
    for worker in train_together(2, false, None) {
        let (_, _, events) = worker.unwrap();
        let last = events.iter().rposition(|event| *event == Event::FirstLayer).unwrap();
        let before = events[..last].iter().rposition(|event| *event == Event::FirstLayer).unwrap();
        let during = events[before..last].iter().filter(|event| **event == Event::Start).count();
        // The gradients of one worker's three passes are sent in 9 exchanges. Six of these have layers 4 to 2 alone, and the sums of 2
        // are on their way, as no more than 4 exchanges of gradients run at a time.
        assert_eq!(during, 6 + 2, "{events:?}");
    }
}

#[test]
fn a_worker_that_ends_while_exchanges_run_ends_the_others() {
    // In the second step all workers send in the same order, and the last one has sent its first gradients.
    let mut workers = train_together(3, false, Some((1, Fault::Error))).into_iter().map(Result::unwrap);
    for _ in 0..2 {
        let message = message(&workers.next().unwrap().0.unwrap_err());
        assert!(message.contains("worker 2 has left") && message.contains("is damaged"), "{message}");
    }
    let (outcome, _, events) = workers.next().unwrap();
    assert!(message(&outcome.unwrap_err()).contains("is damaged"));
    assert_eq!(events[events.len() - 2..], [Event::Start, Event::FirstLayer], "{events:?}");

    let mut workers = train_together(3, false, Some((1, Fault::Panic))).into_iter();
    for _ in 0..2 {
        let message = message(&workers.next().unwrap().unwrap().0.unwrap_err());
        assert!(message.contains("worker 2 has left: its thread panicked"), "{message}");
    }
    assert!(workers.next().unwrap().is_err());
}
