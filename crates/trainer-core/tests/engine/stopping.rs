//! Metrics of the task, and runs that end before their last step.

use std::path::Path;

use super::common::{
    Batch, CLASSES, Mlp, Rows, TARGETS, arguments, contrary, random_rows, recorder, stop_in_step,
};
use trainer_core::{
    BoxError, Event, IntervalStrategy, LogEntry, LossSum, LossTotal, Measured, Metric, Outcome, Ratio,
    Resume, StepContext, Task, Trainer, TrainingArguments, Warning, evaluate,
};

/// A network with accuracy as a metric.
struct Measuring(Mlp);

impl Task for Measuring {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        self.0.train_loss(batch, context)
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        self.0.eval_loss(batch)
    }

    fn measure(&self, batch: &Batch) -> Result<Measured, BoxError> {
        let likeliest = self.0.logits(batch, None)?.argmax(1)?.to_vec1::<u32>()?;
        let correct =
            likeliest.iter().zip(&batch.labels).filter(|(got, wanted)| i64::from(**got) == **wanted);
        let loss = self.eval_loss(batch)?;
        let ratio = Ratio { numerator: correct.count() as f64, denominator: loss.targets as f64 };
        Ok(Measured::new(loss).with(Metric::TOKEN_ACCURACY, ratio))
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.0.num_samples(batch)
    }
}

fn rows() -> Rows {
    Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) }
}

/// Rows on which every evaluation is worse than the one before.
fn worse() -> Rows {
    Rows { rows: contrary(&random_rows(1, 21)), batch_size: 4, shuffle: None }
}

fn accuracies(outcome: &Outcome) -> Vec<f64> {
    let metrics = outcome.state().log_history.iter().filter_map(|entry| match entry {
        LogEntry::Evaluation { metrics, .. } => Some(metrics["eval_token_accuracy"]),
        _ => None,
    });
    metrics.collect()
}

#[test]
fn metrics_do_not_depend_on_the_batches() {
    let task = Measuring(Mlp::new(5));
    let measured = |batch_size| {
        let rows = Rows { rows: random_rows(2, 23), batch_size, shuffle: None };
        evaluate(&task, &rows)
            .unwrap()
            .measured
            .values()
            .into_iter()
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    let whole = measured(23);
    assert_eq!(whole.len(), 3);
    for batch_size in [1, 2, 7] {
        for (got, expected) in measured(batch_size).into_iter().zip(&whole) {
            assert!((got - expected).abs() <= 1e-6 * expected, "{batch_size} a batch: {got}, {expected}");
        }
    }
    let all = Rows { rows: random_rows(2, 23), batch_size: 23, shuffle: None };
    let batch = super::common::batch(&all.rows, &(0..23).collect::<Vec<_>>());
    let logits = task.0.logits(&batch, None).unwrap().to_vec2::<f32>().unwrap();
    let hits = logits.iter().zip(&batch.labels).filter(|(logits, label)| {
        (0..CLASSES).all(|class| **label >= 0 && logits[class] <= logits[**label as usize])
    });
    let targets = batch.labels.iter().filter(|label| **label >= 0).count();
    assert!(batch.labels.len() == 23 * TARGETS && targets < batch.labels.len());
    assert_eq!(whole[2], hits.count() as f64 / targets as f64);
}

#[test]
fn the_best_is_the_highest_if_higher_is_better() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["token_accuracy", "eval_token_accuracy"] {
        let arguments = TrainingArguments {
            metric_for_best_model: name.to_owned(),
            num_train_epochs: 6.0,
            ..arguments(&directory.path().join(name))
        };
        let task = Measuring(Mlp::new(5));
        let trainer = Trainer::new(arguments, task.0.parameters()).unwrap();
        let outcome = trainer.fit(&task, &rows(), Some(&rows())).unwrap();
        let accuracies = accuracies(&outcome);
        let best = accuracies.iter().copied().fold(0.0, f64::max);
        assert!(accuracies[0] < best, "{accuracies:?}");
        assert_eq!(outcome.state().best_metric, Some(best));
        assert_eq!(evaluate(&task, &rows()).unwrap().measured.values()[2].1, best);
    }
}

/// A network whose measurements are constant.
struct Fixed {
    mlp: Mlp,
    loss: f64,
    accuracy: f64,
}

impl Task for Fixed {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        self.mlp.train_loss(batch, context)
    }

    fn eval_loss(&self, _batch: &Batch) -> Result<LossTotal, BoxError> {
        Ok(LossTotal { sum: self.loss, targets: 1 })
    }

    fn measure(&self, batch: &Batch) -> Result<Measured, BoxError> {
        let ratio = Ratio { numerator: self.accuracy, denominator: 1.0 };
        Ok(Measured::new(self.eval_loss(batch)?).with(Metric::TOKEN_ACCURACY, ratio))
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.mlp.num_samples(batch)
    }
}

#[test]
fn an_evaluation_that_is_not_finite_is_never_the_best_and_uses_up_patience() {
    for (loss, accuracy, culprit) in
        [(f64::NAN, 0.5, "loss"), (1.0, f64::NAN, "token_accuracy"), (f64::INFINITY, f64::NAN, "loss")]
    {
        let directory = tempfile::tempdir().unwrap();
        let arguments = TrainingArguments {
            metric_for_best_model: Metric::TOKEN_ACCURACY.name.into_owned(),
            ..patient(directory.path())
        };
        let task = Fixed { mlp: Mlp::new(5), loss, accuracy };
        let (sink, events) = recorder();
        let trainer = Trainer::new(arguments, task.mlp.parameters()).unwrap().sink(sink);
        let outcome = trainer.fit(&task, &rows(), Some(&worse())).unwrap();
        let state = outcome.state();
        assert_eq!((state.best_metric, state.best_global_step), (None, None), "{culprit}");
        assert_eq!(state.global_step, 9, "the patience is three evaluations");
        let events = events.lock().unwrap();
        let warned = events.iter().filter_map(|event| match event {
            Event::Warning(Warning::EvaluationNotFinite { metric, .. }) => Some(metric.as_str()),
            _ => None,
        });
        assert_eq!(warned.collect::<Vec<_>>(), [culprit; 3]);
    }
}

fn patient(output_dir: &Path) -> TrainingArguments {
    TrainingArguments { num_train_epochs: 9.0, early_stopping_patience: Some(3), ..arguments(output_dir) }
}

fn train(arguments: TrainingArguments, resume: bool, stop_in: usize) -> (Outcome, Mlp, Vec<Event>) {
    let mlp = Mlp::new(5);
    let ((sink, events), (stopper, stop)) = (recorder(), stop_in_step(stop_in));
    let mut trainer =
        Trainer::new(arguments, mlp.parameters()).unwrap().sink(sink).sink(stopper).stop_signal(stop);
    if resume {
        trainer = trainer.resume(Resume::Newest);
    }
    let outcome = trainer.fit(&mlp, &rows(), Some(&worse())).unwrap();
    let events = events.lock().unwrap().clone();
    (outcome, mlp, events)
}

fn reason(events: &[Event]) -> Option<&str> {
    events.iter().find_map(|event| match event {
        Event::StoppedEarly { reason, .. } => Some(reason.as_str()),
        _ => None,
    })
}

#[test]
fn a_run_ends_when_evaluations_stop_getting_better() {
    let directory = tempfile::tempdir().unwrap();
    let (outcome, _, events) = train(patient(directory.path()), false, usize::MAX);
    // One evaluation per epoch of three steps. The first is the best; three worse ones follow.
    assert_eq!((outcome.state().best_global_step, outcome.state().global_step), (Some(3), 12));
    assert!(matches!(outcome, Outcome::Finished { .. }));
    assert_eq!(reason(&events), Some("loss did not improve in 3 evaluations"));
    assert!(directory.path().join("checkpoint-12").is_dir());

    // A resume does not continue it.
    let (again, ..) = train(patient(directory.path()), true, usize::MAX);
    assert_eq!(again.state().global_step, 12);
}

#[test]
fn patience_survives_a_resume() {
    let [whole, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_, expected, _) = train(patient(whole.path()), false, usize::MAX);
    let (stopped, ..) = train(patient(directory.path()), false, 10);
    assert!(matches!(stopped, Outcome::Interrupted { .. }));
    let (outcome, mlp, _) = train(patient(directory.path()), true, usize::MAX);
    assert_eq!(outcome.state().global_step, 12);
    assert_eq!(mlp.bits(), expected.bits());
}

#[test]
fn a_run_whose_time_is_up_evaluates_saves_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments { max_seconds: Some(0.5), ..arguments(directory.path()) };
    let mlp = Mlp::new(5);
    let dawdle = |event: &Event| -> Result<(), BoxError> {
        if matches!(event, Event::Step(report) if report.global_step == 2) {
            std::thread::sleep(std::time::Duration::from_millis(600));
        }
        Ok(())
    };
    let (sink, events) = recorder();
    let trainer = Trainer::new(arguments.clone(), mlp.parameters()).unwrap().sink(dawdle).sink(sink);
    let outcome = trainer.fit(&mlp, &rows(), Some(&worse())).unwrap();
    let step = outcome.state().global_step;
    assert!((1..=2).contains(&step), "{step}");
    assert_eq!(reason(&events.lock().unwrap()), Some("its time is up"));
    assert!(directory.path().join(format!("checkpoint-{step}")).is_dir());
    assert!(matches!(outcome.state().log_history[step], LogEntry::Evaluation { .. }));

    // The time before a resume counts.
    let (again, ..) = train(arguments, true, usize::MAX);
    assert_eq!(again.state().global_step, step);
}

/// Time runs out at the end of an epoch, during an evaluation without a checkpoint or a checkpoint without an evaluation.
#[test]
fn a_run_that_runs_out_of_time_ends_evaluated_and_saved() {
    let (steps, epoch) = (IntervalStrategy::Steps, IntervalStrategy::Epoch);
    for (eval_strategy, save_strategy, ends_after) in [(epoch, steps, 3), (steps, epoch, 4)] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = TrainingArguments {
            max_seconds: Some(1.0),
            eval_strategy,
            save_strategy,
            load_best_model_at_end: false,
            ..arguments(directory.path())
        };
        let mlp = Mlp::new(5);
        let dawdle = |event: &Event| -> Result<(), BoxError> {
            if matches!(event, Event::EvaluationStarted { .. } | Event::CheckpointSaved { .. }) {
                std::thread::sleep(std::time::Duration::from_millis(1100));
            }
            Ok(())
        };
        let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(dawdle);
        let outcome = trainer.fit(&mlp, &rows(), Some(&worse())).unwrap();
        let state = outcome.state();
        let step = state.global_step;
        assert!(step <= ends_after, "{step}");
        assert!(directory.path().join(format!("checkpoint-{step}")).is_dir(), "{step}");
        let evaluated =
            |entry: &LogEntry| matches!(entry, LogEntry::Evaluation { step: at, .. } if *at == step);
        assert!(state.log_history.iter().any(evaluated), "{step}");
    }
}
