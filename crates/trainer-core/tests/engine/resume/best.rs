//! The best checkpoint of a resumed run.

use super::*;

/// Trains with evaluations that become worse, so that the first checkpoint stays the best.
fn train_worse(arguments: &TrainingArguments, resume: Option<Resume>, stop_in: Option<usize>) -> Trained {
    let arguments = TrainingArguments { load_best_model_at_end: true, ..arguments.clone() };
    train_on(worse(), &arguments, resume, stop_in).unwrap()
}

fn worse() -> (Rows, Rows) {
    let (train, evaluation) = data();
    let rows = contrary(&train.rows);
    (train, Rows { rows, ..evaluation })
}

#[test]
fn the_best_checkpoint_from_before_the_stop_is_loaded_at_the_end() {
    let [whole, directory] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let uninterrupted = train_worse(&arguments(whole.path()), None, None);
    let arguments = arguments(directory.path());
    train_worse(&arguments, None, Some(5));
    let resumed = train_worse(&arguments, Some(Resume::Newest), None);
    assert_eq!(resumed.outcome.state().best_model_checkpoint, Some(directory.path().join("checkpoint-3")));
    assert_eq!(resumed.bits(), uninterrupted.bits());
}

#[test]
fn a_moved_output_directory_keeps_its_best_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    train_worse(&arguments(&old), None, Some(5));
    fs::rename(&old, &new).unwrap();
    let resumed = train_worse(&arguments(&new), Some(Resume::Newest), None);
    assert_eq!(resumed.warnings(), [] as [&Warning; 0]);
    assert_eq!(resumed.outcome.state().best_model_checkpoint, Some(new.join("checkpoint-3")));
}

#[test]
fn a_lost_or_damaged_best_checkpoint_is_reported_and_a_new_best_found() {
    let lose = |checkpoint: &Path| fs::remove_dir_all(checkpoint).unwrap();
    for damage in [lose, flip_a_bit, truncate, unfinish] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments(directory.path());
        train_worse(&arguments, None, Some(5));
        let best = directory.path().join("checkpoint-3");
        damage(&best);
        let resumed = train_worse(&arguments, Some(Resume::Newest), None);
        assert_eq!(resumed.warnings(), [&Warning::BestCheckpointMissing { path: best }]);
        assert_eq!(resumed.outcome.state().best_global_step, Some(6));
    }
}

/// A network whose evaluations are all equal, so that the first stays the best in every run.
struct Unmoved {
    mlp: Mlp,
}

impl Task for Unmoved {
    type Batch = common::Batch;

    fn train_loss(&self, batch: &Self::Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        self.mlp.train_loss(batch, context)
    }

    fn eval_loss(&self, _batch: &Self::Batch) -> Result<LossTotal, BoxError> {
        Ok(LossTotal { sum: 1.0, targets: 1 })
    }

    fn num_samples(&self, batch: &Self::Batch) -> usize {
        self.mlp.num_samples(batch)
    }
}

fn train_unmoved(arguments: &TrainingArguments, resume: Option<Resume>, stop_in: Option<usize>) -> Trained {
    let task = Unmoved { mlp: model() };
    let arguments = TrainingArguments { load_best_model_at_end: true, ..arguments.clone() };
    let (outcome, events) = train_task(&task, &task.mlp, data(), &arguments, resume, stop_in).unwrap();
    Trained { outcome, mlp: task.mlp, events }
}

#[test]
fn the_best_checkpoint_may_be_in_the_directory_that_the_run_left() {
    let [whole, first, second] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let uninterrupted = train_unmoved(&arguments(whole.path()), None, None);
    train_unmoved(&arguments(first.path()), None, Some(7));

    let named = Resume::From(first.path().join("checkpoint-6"));
    train_unmoved(&arguments(second.path()), Some(named), Some(8));
    let resumed = train_unmoved(&arguments(second.path()), Some(Resume::Newest), Some(8));
    let best = first.path().join("checkpoint-3");
    assert_eq!(resumed.outcome.state().best_model_checkpoint.as_ref(), Some(&best));
    assert_eq!(resumed.warnings(), [] as [&Warning; 0]);
    assert_eq!(resumed.bits(), uninterrupted.bits());

    fs::remove_dir_all(&best).unwrap();
    let resumed = train_unmoved(
        &arguments(second.path()),
        Some(Resume::From(second.path().join("checkpoint-8"))),
        None,
    );
    assert_eq!(resumed.warnings(), [&Warning::BestCheckpointMissing { path: best }]);
    assert_eq!(resumed.outcome.state().best_global_step, Some(9));
}

#[test]
fn a_best_by_another_metric_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let patient = TrainingArguments {
        num_train_epochs: 9.0,
        early_stopping_patience: Some(2),
        ..arguments(directory.path())
    };
    let first = train_worse(&patient, None, None);
    assert_eq!((first.outcome.state().best_global_step, first.outcome.state().global_step), (Some(3), 9));

    // The same metric by its other name.
    let named =
        |metric: &str| TrainingArguments { metric_for_best_model: metric.to_owned(), ..patient.clone() };
    let resumed = train_worse(&named("eval_loss"), Some(Resume::Newest), None);
    assert!(matches!(resumed.warnings()[..], [Warning::ArgumentsChanged { .. }]), "{:?}", resumed.warnings());
    assert_eq!((resumed.outcome.state().best_global_step, resumed.outcome.state().global_step), (Some(3), 9));

    let resumed = train_worse(&named("perplexity"), Some(Resume::Newest), None);
    let warnings = resumed.warnings();
    let [Warning::ArgumentsChanged { .. }, forgotten @ Warning::BestForgotten { .. }] = warnings[..] else {
        panic!("{warnings:?}")
    };
    let expected = "the next evaluation counts as the first: the best was selected by loss, and is now selected by \
                    perplexity";
    assert_eq!(forgotten.to_string(), expected);
    // The first evaluation is the best again, and two worse ones follow.
    assert_eq!(
        (resumed.outcome.state().best_global_step, resumed.outcome.state().global_step),
        (Some(12), 18)
    );
}

#[test]
fn a_best_that_was_not_saved_is_forgotten_if_the_best_is_to_be_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let unsaved = TrainingArguments { save_strategy: IntervalStrategy::No, ..arguments(directory.path()) };
    let interrupted = train_on(worse(), &unsaved, None, Some(5)).unwrap();
    assert_eq!(interrupted.outcome.state().best_global_step, Some(3));

    let resumed = train_worse(&unsaved, Some(Resume::Newest), None);
    let warnings = resumed.warnings();
    let [Warning::ArgumentsChanged { .. }, forgotten @ Warning::BestForgotten { .. }] = warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(forgotten.to_string().contains("after step 3, were not saved"), "{forgotten}");
    let best = directory.path().join("checkpoint-6");
    assert_eq!(resumed.outcome.state().best_model_checkpoint.as_ref(), Some(&best));
    assert!(
        resumed.events.iter().any(|event| matches!(event, Event::BestLoaded { path, .. } if *path == best))
    );
}
