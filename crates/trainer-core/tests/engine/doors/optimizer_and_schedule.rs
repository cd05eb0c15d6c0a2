//! Optimizers and learning-rate schedules of the caller.

use super::*;

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

/// An AdamW that only has the methods that an optimizer must have, and a warning.
#[derive(Debug)]
struct Plain(AdamW, Vec<Warning>);

impl Optimizer for Plain {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn step(&mut self, parameters: &Parameters, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.0.step(parameters, gradients, learning_rate)
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.1)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0.state()
    }

    fn set_state(&mut self, state: BTreeMap<String, Tensor>) -> Result<()> {
        self.0.set_state(state)
    }
}

#[test]
fn adamw_in_one_pass_has_the_bits_of_scaling_clipping_and_a_step() {
    let run = |max_grad_norm: f64, plain: bool| {
        let (directory, mlp) = (tempfile::tempdir().unwrap(), Mlp::with_dropout(5, 0.4));
        let arguments = TrainingArguments { max_grad_norm, ..arguments(directory.path()) };
        let trainer = Trainer::new(arguments.clone(), mlp.parameters()).unwrap();
        let adamw = AdamW::new(&arguments, &mlp.parameters()).unwrap();
        let trainer =
            if plain { trainer.optimizer(Plain(adamw, Vec::new())) } else { trainer.optimizer(adamw) };
        let outcome = fit(trainer, &mlp, None).unwrap();
        (mlp.bits(), untimed(outcome.state()))
    };
    let norms = |log: &[LogEntry]| -> Vec<f64> {
        let norm = |entry: &LogEntry| match entry {
            LogEntry::Train { grad_norm, .. } => Some(*grad_norm),
            _ => None,
        };
        log.iter().filter_map(norm).collect()
    };
    let mut sorted = norms(&run(0.0, false).1);
    sorted.sort_by(f64::total_cmp);
    // No steps are clipped, all, and some.
    for max_grad_norm in [0.0, sorted[0] / 10.0, sorted[4]] {
        let ((bits, log), by_parts) = (run(max_grad_norm, false), run(max_grad_norm, true));
        assert_eq!((&bits, &log), (&by_parts.0, &by_parts.1), "{max_grad_norm}");
        let clipped = norms(&log).into_iter().filter(|norm| *norm > max_grad_norm).count();
        assert_eq!(clipped == 9, max_grad_norm < sorted[0], "{clipped} norms above {max_grad_norm}");
        assert!(clipped > 0, "{max_grad_norm}");
    }
}

#[test]
fn a_step_whose_norm_or_loss_is_not_finite_changes_nothing_and_is_not_counted() {
    let cases = [f32::NAN, f32::INFINITY].map(|wrong| [(wrong, 2.0), (1.0, wrong)]);
    for (gradient_value, loss) in cases.into_iter().flatten() {
        let mlp = Mlp::new(5);
        let (parameters, before) = (mlp.parameters(), mlp.bits());
        let adamw = || AdamW::new(&TrainingArguments::default(), &parameters).unwrap();
        let optimizers: [Box<dyn Optimizer>; 2] = [Box::new(adamw()), Box::new(Plain(adamw(), Vec::new()))];
        for mut optimizer in optimizers {
            let gradient = |(name, variable): (&str, &Var)| {
                let value = if name == "l2.bias" { gradient_value } else { 1.0 };
                (name.to_owned(), Tensor::full(value, variable.shape(), &Device::Cpu).unwrap())
            };
            let gradients = parameters.iter().map(gradient).collect();
            let step = ClippedStep { max_norm: 1.0, ..ClippedStep::new(0.1) };
            let losses = [2.0, loss].map(|loss| Tensor::new(loss, &Device::Cpu).unwrap());
            let taken = optimizer.checked_step(&parameters, gradients, &losses, &step).unwrap();
            assert_eq!(format!("{:?}", taken.losses), format!("{:?}", [2.0, loss].map(f64::from)));
            assert_eq!(taken.norms.is_some(), loss.is_finite());
            assert!(taken.norms.is_none_or(|norms| !norms.global().is_finite()));
            assert_eq!(mlp.bits(), before, "{gradient_value}, {loss}");
            for (name, state) in optimizer.state().unwrap() {
                let sum = state.to_dtype(DType::F64).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
                assert_eq!(sum, 0.0, "{name}");
            }
        }
    }
}

/// A task with a warning after its first pass.
struct Warns(Mlp, Mutex<Vec<Warning>>);

impl Task for Warns {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> std::result::Result<LossSum, BoxError> {
        self.0.train_loss(batch, context)
    }

    fn take_warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut self.1.lock().unwrap())
    }

    fn eval_loss(&self, batch: &Batch) -> std::result::Result<LossTotal, BoxError> {
        self.0.eval_loss(batch)
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.0.num_samples(batch)
    }
}

#[test]
fn warnings_of_task_and_optimizer_are_events_once() {
    let warning = |work: &str| Warning::GraphNotRecorded {
        work: work.to_owned(),
        reason: "it reads from the device".to_owned(),
    };
    let (directory, (sink, events)) = (tempfile::tempdir().unwrap(), recorder());
    let task = Warns(Mlp::new(5), Mutex::new(vec![warning("passes")]));
    let adamw = AdamW::new(&TrainingArguments::default(), &task.0.parameters()).unwrap();
    let optimizer = Plain(adamw, vec![warning("steps")]);
    let (train, evaluation) = data();
    let trainer = trainer(directory.path(), &task.0).optimizer(optimizer).sink(sink);
    let _finished = trainer.fit(&task, &train, Some(&evaluation)).unwrap();
    let events = events.lock().unwrap();
    let found: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Warning(warning) => Some(warning.to_string()),
            _ => None,
        })
        .collect();
    let reason = "run without a CUDA graph, with the same results in more time: it reads from the device";
    assert_eq!(found, [format!("passes {reason}"), format!("steps {reason}")]);
}
