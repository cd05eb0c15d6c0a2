//! Stops and crashes at any moment do not change a single bit.

use super::*;

#[test]
fn stopping_after_any_step_changes_nothing() {
    stopping_after_any_step_changes_nothing_with(TrainingArguments::default());
}

#[test]
fn stopping_after_any_step_changes_nothing_with_fused_micro_batches() {
    // A step of four has passes of two and two, one of three has passes of one and two.
    stopping_after_any_step_changes_nothing_with(TrainingArguments {
        fused_micro_batches: 2,
        ..Default::default()
    });
}

#[test]
fn stopping_after_any_step_changes_nothing_with_momentum() {
    stopping_after_any_step_changes_nothing_with(TrainingArguments {
        optim: OptimizerType::Sgd,
        sgd_momentum: 0.9,
        ..Default::default()
    });
}

fn stopping_after_any_step_changes_nothing_with(special: TrainingArguments) {
    let whole = tempfile::tempdir().unwrap();
    // Entries of the log span steps, epochs and interruptions.
    let base = TrainingArguments {
        logging_steps: 2,
        fused_micro_batches: special.fused_micro_batches,
        optim: special.optim,
        sgd_momentum: special.sgd_momentum,
        ..arguments(whole.path())
    };
    let uninterrupted = train(&base, None, None).unwrap();
    assert!(matches!(uninterrupted.outcome, Outcome::Finished { .. }));

    for step in 1..9 {
        let directory = tempfile::tempdir().unwrap();
        let arguments = TrainingArguments { output_dir: directory.path().to_owned(), ..base.clone() };
        let interrupted = train(&arguments, None, Some(step)).unwrap();
        let Outcome::Interrupted { checkpoint, state } = &interrupted.outcome else { panic!("step {step}") };
        assert_eq!(
            (checkpoint, state.global_step),
            (&directory.path().join(format!("checkpoint-{step}")), step)
        );

        let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
        assert_eq!(resumed.warnings(), [] as [&Warning; 0], "step {step}");
        assert_eq!(resumed.bits(), uninterrupted.bits(), "parameters, stopped after step {step}");
        assert_eq!(
            untimed(resumed.outcome.state()),
            untimed(uninterrupted.outcome.state()),
            "log, stopped after step {step}"
        );
        for name in ["parameters.safetensors", "optimizer.safetensors"] {
            assert!(
                file(directory.path(), 9, name) == file(whole.path(), 9, name),
                "{name}, stopped after {step}"
            );
        }
    }
}

#[test]
fn a_run_may_be_stopped_again_and_again() {
    let [whole, often] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let uninterrupted = train(&arguments(whole.path()), None, None).unwrap();
    let arguments = arguments(often.path());
    train(&arguments, None, Some(2)).unwrap();
    train(&arguments, Some(Resume::Newest), Some(3)).unwrap();
    train(&arguments, Some(Resume::Newest), Some(7)).unwrap();
    let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
    assert_eq!(resumed.bits(), uninterrupted.bits());
    assert_eq!(untimed(resumed.outcome.state()), untimed(uninterrupted.outcome.state()));
}

#[test]
fn a_crash_costs_only_the_steps_since_the_last_checkpoint() {
    let [whole, crashed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let uninterrupted = train(&arguments(whole.path()), None, None).unwrap();
    let arguments = arguments(crashed.path());
    let (train_rows, evaluation) = data();
    let mlp = model();
    let crash = |event: &Event| -> Result<(), BoxError> {
        match event {
            Event::Step(report) if report.global_step == 5 => Err("the power went out".into()),
            _ => Ok(()),
        }
    };
    let trainer = Trainer::new(arguments.clone(), mlp.parameters()).unwrap().sink(crash);
    let error = trainer.fit(&mlp, &train_rows, Some(&evaluation)).unwrap_err();
    assert!(common::message(&error).contains("the power went out"), "{error}");

    let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
    let from = resumed.events.iter().find_map(|event| match event {
        Event::Resumed { global_step, .. } => Some(*global_step),
        _ => None,
    });
    assert_eq!(from, Some(3));
    assert_eq!(resumed.bits(), uninterrupted.bits());
}

/// A network that fails in one micro-batch, which leaves as little behind as a killed process.
struct Dying {
    mlp: Mlp,
    at: (u64, u64),
}

impl Task for Dying {
    type Batch = common::Batch;

    fn train_loss(&self, batch: &Self::Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        if (context.step, context.first_sample) == self.at {
            return Err("the power went out".into());
        }
        self.mlp.train_loss(batch, context)
    }

    fn eval_loss(&self, batch: &Self::Batch) -> Result<LossTotal, BoxError> {
        self.mlp.eval_loss(batch)
    }

    fn num_samples(&self, batch: &Self::Batch) -> usize {
        self.mlp.num_samples(batch)
    }
}

#[test]
fn a_crash_in_any_micro_batch_changes_nothing() {
    let whole = tempfile::tempdir().unwrap();
    let every_step = |path: &Path| TrainingArguments {
        save_strategy: IntervalStrategy::Steps,
        save_steps: 1,
        ..arguments(path)
    };
    let uninterrupted = train(&every_step(whole.path()), None, None).unwrap();
    for step in [1, 2, 3, 5] {
        for first_sample in [0, 2, 4] {
            let directory = tempfile::tempdir().unwrap();
            let arguments = every_step(directory.path());
            let dying = Dying { mlp: model(), at: (step, first_sample) };
            let trainer = Trainer::new(arguments.clone(), dying.mlp.parameters()).unwrap();
            let (rows, evaluation) = data();
            let error = common::message(&trainer.fit(&dying, &rows, Some(&evaluation)).unwrap_err());
            assert!(error.contains("the power went out"), "{error}");

            let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
            let place = format!("step {step}, sample {first_sample}");
            assert!(
                resumed.events.iter().any(
                    |event| matches!(event, Event::Resumed { global_step, .. } if *global_step == step as usize)
                ),
                "{place}"
            );
            assert_eq!(resumed.bits(), uninterrupted.bits(), "{place}");
            assert_eq!(untimed(resumed.outcome.state()), untimed(uninterrupted.outcome.state()), "{place}");
        }
    }
}

#[test]
fn a_crash_while_a_checkpoint_replaces_another_loses_neither() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    let whole = train(&arguments, None, None).unwrap();
    // The old one is moved away, and the new one, under its temporary name, is incomplete.
    fs::rename(directory.path().join("checkpoint-9"), directory.path().join(".checkpoint-9.replaced"))
        .unwrap();
    fs::create_dir(directory.path().join(".checkpoint-9.partial")).unwrap();
    let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
    assert!(resumed.events.iter().any(|event| matches!(event, Event::Resumed { global_step: 9, .. })));
    assert_eq!(resumed.bits(), whole.bits());
    // A moment later both exist, and the new one counts.
    fs::create_dir(directory.path().join(".checkpoint-9.replaced")).unwrap();
    let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
    assert!(resumed.events.iter().any(|event| matches!(event, Event::Resumed { global_step: 9, .. })));
    assert!(!directory.path().join(".checkpoint-9.replaced").exists());
}

#[test]
fn a_finished_run_resumes_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    let first = train(&arguments, None, None).unwrap();
    let again = train(&arguments, Some(Resume::Newest), None).unwrap();
    assert_eq!(again.bits(), first.bits());
    assert_eq!(untimed(again.outcome.state()), untimed(first.outcome.state()));
}

#[test]
fn a_run_without_a_save_strategy_saves_when_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        save_strategy: IntervalStrategy::No,
        eval_strategy: IntervalStrategy::No,
        ..arguments(directory.path())
    };
    train(&arguments, None, Some(4)).unwrap();
    let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
    let whole = TrainingArguments { output_dir: directory.path().join("whole"), ..arguments };
    assert_eq!(resumed.bits(), train(&whole, None, None).unwrap().bits());
}
