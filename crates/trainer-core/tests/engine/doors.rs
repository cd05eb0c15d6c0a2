//! Parts that a caller provides: optimizer, schedule, parameters, gradients, data and metrics.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder, VarMap};
use trainer_core::{
    AdamW, BatchSource, BoxError, Direction, Error, Gradients, InMemory, IntervalStrategy,
    LearningRateSchedule, LogEntry, LossSum, LossTotal, Measured, Metric, Optimizer, Outcome, Parameters,
    Ratio, Result, Resume, Schedule, SchedulerType, Sgd, StepContext, Task, Trainer, TrainingArguments, Unit,
    evaluate,
};

use super::common::{
    self, Batch, Mlp, Row, Rows, batch, contrary, random_rows, stop_in_step, untimed, values,
};

/// Three steps per epoch, nine in all. Every evaluation is worse than the one before.
fn data() -> (Rows, Rows) {
    let train = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    let evaluation = Rows { rows: contrary(&train.rows), batch_size: 4, shuffle: None };
    (train, evaluation)
}

fn arguments(output_dir: &Path) -> TrainingArguments {
    TrainingArguments { load_best_model_at_end: false, ..common::arguments(output_dir) }
}

fn trainer(output_dir: &Path, mlp: &Mlp) -> Trainer {
    Trainer::new(arguments(output_dir), mlp.parameters()).unwrap()
}

fn fit(trainer: Trainer, mlp: &Mlp, stop_in: Option<usize>) -> Result<Outcome> {
    let (stopper, stop) = stop_in_step(stop_in.unwrap_or(usize::MAX));
    let (train, evaluation) = data();
    trainer.sink(stopper).stop_signal(stop).fit(mlp, &train, Some(&evaluation))
}

/// Trains without interruption, and again with a stop and a resume after every step. `prepare` provides the part under test.
fn assert_exact_resume(prepare: impl Fn(Trainer, &Mlp) -> Trainer) -> Outcome {
    let whole = tempfile::tempdir().unwrap();
    let mlp = Mlp::with_dropout(5, 0.4);
    let uninterrupted = fit(prepare(trainer(whole.path(), &mlp), &mlp), &mlp, None).unwrap();
    for step in 1..9 {
        let directory = tempfile::tempdir().unwrap();
        let first = Mlp::with_dropout(5, 0.4);
        let stopped = fit(prepare(trainer(directory.path(), &first), &first), &first, Some(step)).unwrap();
        assert!(matches!(stopped, Outcome::Interrupted { .. }));
        let second = Mlp::with_dropout(5, 0.4);
        let again = prepare(trainer(directory.path(), &second), &second).resume(Resume::Newest);
        let resumed = fit(again, &second, None).unwrap();
        assert_eq!(second.bits(), mlp.bits(), "stopped after step {step}");
        assert_eq!(untimed(resumed.state()), untimed(uninterrupted.state()), "stopped after step {step}");
    }
    uninterrupted
}

/// The refusal of a run that was stopped in step 4 and is resumed with another part.
fn refusal(saved: impl Fn(Trainer, &Mlp) -> Trainer, now: impl Fn(Trainer, &Mlp) -> Trainer) -> String {
    let (directory, mlp) = (tempfile::tempdir().unwrap(), Mlp::new(5));
    let _stopped = fit(saved(trainer(directory.path(), &mlp), &mlp), &mlp, Some(4)).unwrap();
    let again = now(trainer(directory.path(), &mlp), &mlp).resume(Resume::Newest);
    fit(again, &mlp, None).unwrap_err().to_string()
}

/// Gradient descent with a velocity for each parameter.
#[derive(Debug)]
struct HeavyBall {
    velocity: BTreeMap<String, Tensor>,
}

impl HeavyBall {
    fn new(parameters: &Parameters) -> Self {
        let zeros =
            parameters.iter().map(|(name, variable)| (name.to_owned(), variable.zeros_like().unwrap()));
        Self { velocity: zeros.collect() }
    }
}

impl Optimizer for HeavyBall {
    fn name(&self) -> &str {
        "heavy_ball"
    }

    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        for (name, gradient) in gradients.iter() {
            let velocity = ((&self.velocity[name] * 0.9)? + gradient)?;
            let parameter = parameters.get(name).unwrap();
            parameter.set(&(parameter.as_detached_tensor() - (&velocity * learning_rate)?)?)?;
            self.velocity.insert(name.to_owned(), velocity);
        }
        Ok(())
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.velocity.clone())
    }

    fn set_state(&mut self, state: BTreeMap<String, Tensor>) -> Result<()> {
        self.velocity = state;
        Ok(())
    }
}

fn with_heavy_ball(trainer: Trainer, mlp: &Mlp) -> Trainer {
    trainer.optimizer(HeavyBall::new(&mlp.parameters()))
}

/// Halves the learning rate after every evaluation that is not the best so far.
struct Plateau {
    rate: f64,
    best: f64,
}

impl Plateau {
    fn new() -> Self {
        Self { rate: 0.05, best: f64::INFINITY }
    }
}

impl LearningRateSchedule for Plateau {
    fn name(&self) -> &str {
        "plateau"
    }

    fn learning_rate(&self, _step: usize, _max_steps: usize) -> f64 {
        self.rate
    }

    fn evaluated(&mut self, metric: &Metric, value: f64) {
        if metric.improvement(value, self.best) > 0.0 {
            self.best = value;
        } else {
            self.rate /= 2.0;
        }
    }

    fn state(&self) -> String {
        format!("{} {}", self.rate.to_bits(), self.best.to_bits())
    }

    fn set_state(&mut self, state: &str) -> Result<(), BoxError> {
        let (rate, best) = state.split_once(' ').ok_or("not a state of this schedule")?;
        (self.rate, self.best) = (f64::from_bits(rate.parse()?), f64::from_bits(best.parse()?));
        Ok(())
    }
}

fn rates(outcome: &Outcome) -> Vec<f64> {
    let rates = outcome.state().log_history.iter().filter_map(|entry| match entry {
        LogEntry::Train { learning_rate, .. } => Some(*learning_rate),
        _ => None,
    });
    rates.collect()
}

#[test]
fn the_state_of_a_custom_optimizer_is_restored_exactly() {
    let outcome = assert_exact_resume(with_heavy_ball);
    assert_eq!(outcome.state().global_step, 9);
}

#[test]
fn the_state_of_a_custom_schedule_is_restored_exactly() {
    let outcome = assert_exact_resume(|trainer, _| trainer.schedule(Plateau::new()));
    assert_eq!(rates(&outcome), [0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025, 0.025]);
}

#[test]
fn a_closure_is_a_schedule() {
    let outcome = assert_exact_resume(|trainer, _| {
        trainer.schedule(|step: usize, max_steps: usize| 0.01 * (max_steps - step) as f64)
    });
    assert_eq!(rates(&outcome)[..3], [0.09, 0.08, 0.07]);
}

#[test]
fn the_built_in_parts_may_be_handed_in() {
    let handed_in = assert_exact_resume(|trainer, mlp| {
        let arguments = TrainingArguments { learning_rate: 0.05, ..Default::default() };
        let schedule = Schedule::new(SchedulerType::Linear, 0.05, 0.05, 9);
        trainer.optimizer(AdamW::new(&arguments, &mlp.parameters()).unwrap()).schedule(schedule)
    });
    let selected = assert_exact_resume(|trainer, _| trainer);
    assert_eq!(untimed(handed_in.state()), untimed(selected.state()));
}

#[test]
fn another_kind_of_optimizer_or_schedule_is_refused() {
    let optimizer = refusal(with_heavy_ball, |trainer, _| trainer);
    assert!(optimizer.ends_with("optim was heavy_ball and is now adamw_torch"), "{optimizer}");
    let optimizer = refusal(|trainer, _| trainer, with_heavy_ball);
    assert!(optimizer.ends_with("optim was adamw_torch and is now heavy_ball"), "{optimizer}");
    let schedule = refusal(|trainer, _| trainer, |trainer, _| trainer.schedule(Plateau::new()));
    assert!(schedule.ends_with("schedule was built-in and is now plateau"), "{schedule}");
    let schedule = refusal(|trainer, _| trainer.schedule(Plateau::new()), |trainer, _| trainer);
    assert!(schedule.ends_with("schedule was plateau and is now built-in"), "{schedule}");
}

#[test]
fn a_learning_rate_that_is_negative_or_not_finite_is_refused() {
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        let (directory, mlp) = (tempfile::tempdir().unwrap(), Mlp::new(5));
        let before = mlp.bits();
        let schedule = move |_: usize, _: usize| value;
        let error = fit(trainer(directory.path(), &mlp).schedule(schedule), &mlp, None).unwrap_err();
        assert!(matches!(&error, Error::LearningRate { step: 1, schedule, .. } if schedule == "closure"));
        assert!(error.to_string().contains("must be at least 0"), "{error}");
        assert_eq!(mlp.bits(), before);
    }
}

#[test]
fn a_state_that_does_not_fit_an_optimizer_is_refused() {
    let parameters = Mlp::new(5).parameters();
    let momentum = TrainingArguments { sgd_momentum: 0.9, ..Default::default() };
    let optimizers: [Box<dyn Optimizer>; 2] = [
        Box::new(AdamW::new(&momentum, &parameters).unwrap()),
        Box::new(Sgd::new(&momentum, &parameters).unwrap()),
    ];
    for mut optimizer in optimizers {
        let mut state = optimizer.state().unwrap();
        let (name, _) = state.pop_first().unwrap();
        state.insert("other".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let error = optimizer.set_state(state).unwrap_err().to_string();
        assert!(error.ends_with(&format!("{name} is missing; other is unexpected")), "{error}");
    }
}

#[test]
fn a_restored_optimizer_shares_no_memory_with_the_state_it_was_given() {
    let parameters = Mlp::new(5).parameters();
    let gradients =
        || parameters.iter().map(|(name, variable)| (name.to_owned(), variable.ones_like().unwrap()));
    let mut optimizer = AdamW::new(&TrainingArguments::default(), &parameters).unwrap();
    let zeros = AdamW::new(&TrainingArguments::default(), &parameters).unwrap().state().unwrap();
    optimizer.set_state(zeros.clone()).unwrap();
    optimizer.step(&parameters, &gradients().collect(), 0.1).unwrap();
    assert!(values(&zeros["l1.bias.exp_avg"]).iter().all(|moment| *moment == 0.0));
}

#[test]
fn a_trainer_can_be_sent_to_a_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Trainer>();
    let directory = tempfile::tempdir().unwrap();
    let mlp = Mlp::new(5);
    let trainer = trainer(directory.path(), &mlp);
    let outcome = thread::spawn(move || fit(trainer, &mlp, None)).join().unwrap().unwrap();
    assert_eq!(outcome.state().global_step, 9);
}

#[test]
fn the_variables_of_a_var_map_are_sorted_by_name() {
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let names: Vec<String> = (0..20).map(|index| format!("layer.{:02}", (7 * index) % 20)).collect();
    for name in &names {
        builder.get_with_hints(2, name, Init::Const(0.5)).unwrap();
    }
    let parameters = Parameters::from_var_map(&variables).unwrap();
    let sorted: Vec<String> = (0..20).map(|index| format!("layer.{index:02}")).collect();
    assert_eq!(parameters.iter().map(|(name, _)| name).collect::<Vec<_>>(), sorted);
    assert_eq!(parameters.element_count(), 40);
    assert!(matches!(Parameters::from_var_map(&VarMap::new()), Err(Error::NoParameters)));

    // They are the map's own variables, not copies.
    parameters.get("layer.03").unwrap().set(&Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap()).unwrap();
    assert_eq!(values(&variables.data().lock().unwrap()["layer.03"]), [1.0, 2.0]);
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let variable = || candle_core::Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let error = Parameters::new(["a", "b", "a"].map(|name| (name.to_owned(), variable()))).unwrap_err();
    assert!(matches!(&error, Error::DuplicateParameter { name } if name == "a"), "{error}");
}

#[test]
fn gradients_can_be_built_replaced_and_iterated() {
    let tensor = |value: f32| Tensor::new(&[value, 0.0], &Device::Cpu).unwrap();
    let mut gradients = Gradients::from_iter([("b".to_owned(), tensor(3.0)), ("a".to_owned(), tensor(1.0))]);
    assert_eq!(values(&gradients.insert("a", tensor(4.0)).unwrap()), [1.0, 0.0]);
    let found: Vec<_> = gradients.iter().map(|(name, gradient)| (name, values(gradient)[0])).collect();
    assert_eq!((found, gradients.len(), gradients.is_empty()), (vec![("a", 4.0), ("b", 3.0)], 2, false));
    assert_eq!(gradients.norms().unwrap().global(), 5.0);
}

/// An `Mlp` on batches of rows, with a metric whose name is made at run time.
struct OnRows(Mlp);

impl OnRows {
    fn batch(rows: &[Row]) -> Batch {
        batch(rows, &(0..rows.len()).collect::<Vec<_>>())
    }
}

impl Task for OnRows {
    type Batch = Vec<Row>;

    fn train_loss(&self, rows: &Vec<Row>, context: &StepContext) -> Result<LossSum, BoxError> {
        self.0.train_loss(&Self::batch(rows), context)
    }

    fn eval_loss(&self, rows: &Vec<Row>) -> Result<LossTotal, BoxError> {
        self.0.eval_loss(&Self::batch(rows))
    }

    fn measure(&self, rows: &Vec<Row>) -> Result<Measured, BoxError> {
        let loss = self.eval_loss(rows)?;
        let metric = Metric::new(format!("loss_below_{}", 2), Unit::Share, Direction::HigherIsBetter);
        let ratio = Ratio { numerator: f64::from(u8::from(loss.mean() < 2.0)), denominator: 1.0 };
        Ok(Measured::new(loss).with(metric, ratio))
    }

    fn num_samples(&self, rows: &Vec<Row>) -> usize {
        rows.len()
    }
}

#[test]
fn samples_in_memory_are_shuffled_by_seed_and_epoch() {
    let plain = InMemory::new((0..23).collect::<Vec<usize>>(), 4).unwrap();
    let order = |source: &InMemory<usize>, epoch| -> Vec<usize> {
        source.epoch(epoch, 0).flat_map(|batch| batch.unwrap()).collect()
    };
    assert_eq!((order(&plain, 0), plain.batches_per_epoch()), ((0..23).collect(), 6));
    let shuffled = plain.clone().shuffled(7);
    for epoch in 0..3 {
        assert_eq!(order(&shuffled, epoch), trainer_core::epoch_order(7, epoch, 23));
        for first in 0..=6 {
            let rest: Vec<_> = shuffled.epoch(epoch, first).flat_map(|batch| batch.unwrap()).collect();
            assert_eq!(rest, order(&shuffled, epoch)[(4 * first).min(23)..], "from batch {first}");
        }
    }
    assert_ne!(order(&plain.clone().shuffled(8), 0), order(&shuffled, 0));
    assert_eq!(shuffled.epoch(0, 7).count(), 0);
    let error = InMemory::new(vec![1], 0).unwrap_err();
    assert!(error.to_string().contains("batch_size must be at least 1"), "{error}");
    assert_eq!(InMemory::new(Vec::<u8>::new(), 3).unwrap().batches_per_epoch(), 0);
}

#[test]
fn a_run_on_samples_in_memory_is_resumed_exactly() {
    let train = InMemory::new(random_rows(1, 21), 2).unwrap().shuffled(9);
    let evaluation = InMemory::new(random_rows(2, 7), 4).unwrap();
    let run = |output_dir: &Path, stop_in: usize| {
        let task = OnRows(Mlp::with_dropout(5, 0.4));
        let (stopper, stop) = stop_in_step(stop_in);
        // The same call starts and continues a run.
        let trainer =
            trainer(output_dir, &task.0).resume(Resume::NewestIfAny).sink(stopper).stop_signal(stop);
        let outcome = trainer.fit(&task, &train, Some(&evaluation)).unwrap();
        (untimed(outcome.state()), task.0.bits(), outcome)
    };
    let whole = tempfile::tempdir().unwrap();
    let uninterrupted = run(whole.path(), usize::MAX);
    let logged = uninterrupted.0.iter().find_map(|entry| match entry {
        LogEntry::Evaluation { metrics, .. } => Some(metrics.contains_key("eval_loss_below_2")),
        _ => None,
    });
    assert_eq!(logged, Some(true));
    for step in 1..9 {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(run(directory.path(), step).2, Outcome::Interrupted { .. }));
        let resumed = run(directory.path(), usize::MAX);
        assert_eq!(
            (&resumed.0, &resumed.1),
            (&uninterrupted.0, &uninterrupted.1),
            "stopped after step {step}"
        );
    }
}

#[test]
fn without_an_undamaged_checkpoint_newest_if_any_is_an_error() {
    let (directory, mlp) = (tempfile::tempdir().unwrap(), Mlp::new(5));
    let first = Trainer::new(
        TrainingArguments {
            eval_strategy: IntervalStrategy::No,
            max_steps: Some(3),
            ..arguments(directory.path())
        },
        mlp.parameters(),
    );
    let _finished = fit(first.unwrap(), &mlp, None).unwrap();
    std::fs::remove_file(directory.path().join("checkpoint-3/complete.json")).unwrap();
    let again = trainer(directory.path(), &mlp).resume(Resume::NewestIfAny);
    let error = fit(again, &mlp, None).unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");
    assert!(directory.path().join("checkpoint-3").is_dir());
}

#[test]
fn a_loss_sum_is_read_as_a_total() {
    let task = Mlp::new(5);
    let rows = random_rows(2, 7);
    let one = vec![batch(&rows, &[0, 1, 2, 3, 4, 5, 6])];
    let total = task.train_loss(&one[0], &StepContext::default()).unwrap().total().unwrap();
    assert_eq!(total, evaluate(&task, &one).unwrap().loss);
}
