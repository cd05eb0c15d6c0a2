//! A resumed run equals the run that was never interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::common::{self, Mlp, Rows, contrary, random_rows, recorder, stop_in_step, untimed};
use serde_json::Value;
use trainer_core::{
    ArgumentChange, BoxError, Error, Event, Identity, IntervalStrategy, LossSum, LossTotal, OptimizerType,
    Outcome, Result, Resume, SavedCheckpoint, StepContext, Task, Trainer, TrainingArguments, Warning,
};

/// Eleven batches an epoch make three steps of four, the last one short; three epochs make nine.
fn data() -> (Rows, Rows) {
    let train = Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) };
    (train, Rows { rows: random_rows(2, 7), batch_size: 4, shuffle: None })
}

fn model() -> Mlp {
    Mlp::with_dropout(5, 0.4)
}

struct Trained {
    outcome: Outcome,
    mlp: Mlp,
    events: Vec<Event>,
}

impl Trained {
    fn bits(&self) -> BTreeMap<String, Vec<u32>> {
        self.mlp.bits()
    }

    fn warnings(&self) -> Vec<&Warning> {
        let warnings = self.events.iter().filter_map(|event| match event {
            Event::Warning(warning) => Some(warning),
            _ => None,
        });
        warnings.collect()
    }
}

/// Ends with the last parameters, so that they depend on the whole run.
fn arguments(output_dir: &Path) -> TrainingArguments {
    TrainingArguments { load_best_model_at_end: false, ..common::arguments(output_dir) }
}

fn train(arguments: &TrainingArguments, resume: Option<Resume>, stop_in: Option<usize>) -> Result<Trained> {
    train_on(data(), arguments, resume, stop_in)
}

fn train_on(
    data: (Rows, Rows),
    arguments: &TrainingArguments,
    resume: Option<Resume>,
    stop_in: Option<usize>,
) -> Result<Trained> {
    let mlp = model();
    let (outcome, events) = train_task(&mlp, &mlp, data, arguments, resume, stop_in)?;
    Ok(Trained { outcome, mlp, events })
}

/// Trains the network of a task.
fn train_task(
    task: &impl Task<Batch = common::Batch>,
    mlp: &Mlp,
    (train, evaluation): (Rows, Rows),
    arguments: &TrainingArguments,
    resume: Option<Resume>,
    stop_in: Option<usize>,
) -> Result<(Outcome, Vec<Event>)> {
    let (sink, events) = recorder();
    let (stopper, stop) = stop_in_step(stop_in.unwrap_or(usize::MAX));
    let mut trainer =
        Trainer::new(arguments.clone(), mlp.parameters())?.sink(sink).sink(stopper).stop_signal(stop);
    if let Some(resume) = resume {
        trainer = trainer.resume(resume);
    }
    let outcome = trainer.fit(task, &train, Some(&evaluation))?;
    let events = events.lock().unwrap().clone();
    Ok((outcome, events))
}

fn file(directory: &Path, step: usize, name: &str) -> Vec<u8> {
    fs::read(directory.join(format!("checkpoint-{step}")).join(name)).unwrap()
}

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
fn a_run_with_another_optimizer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, Some(4)).unwrap();
    let other = TrainingArguments { optim: OptimizerType::Sgd, ..arguments };
    let error = train(&other, Some(Resume::Newest), None).err().unwrap().to_string();
    assert!(error.contains("optim was adamw_torch and is now sgd"), "{error}");
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

/// A finished run with checkpoints 3, 6 and 9, of which the newest is then damaged.
fn damaged(damage: impl Fn(&Path)) -> (tempfile::TempDir, TrainingArguments) {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, None).unwrap();
    damage(&directory.path().join("checkpoint-9"));
    (directory, arguments)
}

fn truncate(checkpoint: &Path) {
    let path = checkpoint.join("optimizer.safetensors");
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() / 2]).unwrap();
}

fn flip_a_bit(checkpoint: &Path) {
    let path = checkpoint.join("parameters.safetensors");
    let mut content = fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&path, content).unwrap();
}

fn unfinish(checkpoint: &Path) {
    fs::remove_file(checkpoint.join("complete.json")).unwrap();
}

fn lose_a_file(checkpoint: &Path) {
    fs::remove_file(checkpoint.join("trainer_state.json")).unwrap();
}

#[test]
fn a_damaged_newest_checkpoint_is_skipped_with_the_reason() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 4] = [
        (truncate, "optimizer.safetensors has"),
        (flip_a_bit, "parameters.safetensors does not have the checksum"),
        (unfinish, "never finished"),
        (lose_a_file, "trainer_state.json"),
    ];
    for (damage, expected) in cases {
        let (directory, arguments) = damaged(damage);
        let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
        let warnings = resumed.warnings();
        let [Warning::CheckpointSkipped { path, reason }] = warnings[..] else { panic!("{warnings:?}") };
        assert_eq!(path, &directory.path().join("checkpoint-9"));
        assert!(reason.contains(expected), "{reason}");
        let from = PathBuf::from("checkpoint-6");
        assert!(resumed.events.iter().any(
            |event| matches!(event, Event::Resumed { checkpoint, global_step: 6 } if checkpoint.ends_with(&from))
        ));
        assert_eq!(resumed.outcome.state().global_step, 9);
    }
}

/// In every file, the manifest included: a flipped bit in the first, middle and last byte, and a truncation to half.
#[test]
fn no_damage_to_any_file_goes_unnoticed() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    let whole = train(&arguments, None, None).unwrap();
    let newest = directory.path().join("checkpoint-9");
    let read = |name: &str| fs::read(newest.join(name)).unwrap();
    let names: Vec<_> = fs::read_dir(&newest)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let intact: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), read(name))).collect();
    assert_eq!(intact.len(), 6);
    for (name, bytes) in &intact {
        let flipped = [0, bytes.len() / 2, bytes.len() - 1].map(|place| {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << (place % 8);
            bytes
        });
        for damaged in flipped.into_iter().chain([bytes[..bytes.len() / 2].to_vec()]) {
            // The run before has saved the checkpoint again.
            for (name, bytes) in &intact {
                fs::write(newest.join(name), bytes).unwrap();
            }
            fs::write(newest.join(name), damaged).unwrap();
            let resumed = train(&arguments, Some(Resume::Newest), None).unwrap();
            let [Warning::CheckpointSkipped { path, .. }] = resumed.warnings()[..] else { panic!("{name}") };
            assert_eq!(path, &newest);
            assert_eq!(resumed.bits(), whole.bits(), "{name}");
        }
    }
}

#[test]
fn a_damaged_checkpoint_that_is_named_is_an_error() {
    let (directory, arguments) = damaged(truncate);
    let named = directory.path().join("checkpoint-9");
    let Err(Error::Checkpoint { path, reason }) = train(&arguments, Some(Resume::From(named.clone())), None)
    else {
        panic!("resumed from a damaged checkpoint")
    };
    assert_eq!(path, named);
    assert!(reason.contains("optimizer.safetensors has"), "{reason}");
}

#[test]
fn without_a_usable_checkpoint_the_error_lists_the_damaged_ones() {
    let directory = tempfile::tempdir().unwrap();
    let error = train(&arguments(directory.path()), Some(Resume::Newest), None).err().unwrap();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");

    let (directory, arguments) = damaged(truncate);
    for step in [3, 6] {
        fs::remove_dir_all(directory.path().join(format!("checkpoint-{step}"))).unwrap();
    }
    let error = train(&arguments, Some(Resume::Newest), None).err().unwrap().to_string();
    assert!(error.contains("checkpoint-9") && error.contains("optimizer.safetensors has"), "{error}");
}

#[test]
fn other_data_accumulation_or_seed_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, Some(4)).unwrap();

    let other = TrainingArguments { gradient_accumulation_steps: 2, ..arguments.clone() };
    let error = train(&other, Some(Resume::Newest), None).err().unwrap().to_string();
    assert!(error.contains("gradient_accumulation_steps was 4 and is now 2"), "{error}");
    let other = TrainingArguments { seed: 7, ..other };
    let error = train(&other, Some(Resume::Newest), None).err().unwrap().to_string();
    assert!(error.contains("was 4 and is now 2; seed was ") && error.contains("and is now 7"), "{error}");

    let mlp = model();
    let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().resume(Resume::Newest);
    let fewer = Rows { rows: random_rows(1, 16), batch_size: 2, shuffle: Some(9) };
    let error = trainer.fit(&mlp, &fewer, Some(&fewer)).unwrap_err().to_string();
    assert!(error.contains("training batches per epoch was 11 and is now 8"), "{error}");
}

#[test]
fn changed_arguments_are_allowed_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, None).unwrap();
    let longer = TrainingArguments { num_train_epochs: 4.0, ..arguments };
    let resumed = train(&longer, Some(Resume::Newest), None).unwrap();
    let change = ArgumentChange {
        name: "num_train_epochs".to_owned(),
        saved: "3.0".to_owned(),
        now: "4.0".to_owned(),
    };
    assert_eq!(change.to_string(), "num_train_epochs: 3.0 -> 4.0");
    assert_eq!(resumed.warnings(), [&Warning::ArgumentsChanged { changes: vec![change] }]);
    assert_eq!(resumed.outcome.state().global_step, 12);
}

/// Saves a checkpoint with one identity and resumes from it with another.
fn resume_as(saved: Identity, now: Identity) -> Result<Outcome> {
    let directory = tempfile::tempdir().unwrap();
    let ((rows, evaluation), mlp) = (data(), model());
    let trainer = || Trainer::new(arguments(directory.path()), mlp.parameters()).unwrap();
    let (stopper, stop) = stop_in_step(4);
    let first = trainer().identity(saved).sink(stopper).stop_signal(stop);
    let _interrupted = first.fit(&mlp, &rows, Some(&evaluation)).unwrap();
    trainer().identity(now).resume(Resume::Newest).fit(&mlp, &rows, Some(&evaluation))
}

#[test]
fn a_run_of_another_identity_is_refused_with_all_that_differs() {
    let identity = |alpha: f64, data: &str| {
        Identity::new().with("alpha", alpha).with("rank", 4).with_content("rows", "rows.txt", data)
    };
    assert!(resume_as(identity(32.0, "aa"), identity(32.0, "aa")).is_ok());

    let error = resume_as(identity(32.0, "aa"), identity(16.0, "bb")).unwrap_err();
    let Error::AnotherRun { path, differences } = &error else { panic!("{error}") };
    assert!(path.ends_with("checkpoint-4"));
    assert_eq!(differences.iter().map(|difference| &*difference.key).collect::<Vec<_>>(), ["alpha", "rows"]);
    let words = "checkpoint-4, as the run would not be the same: alpha was 32 and is now 16; the content of rows \
                 (rows.txt) has changed";
    assert!(error.to_string().ends_with(words), "{error}");

    assert!(matches!(resume_as(Identity::new(), identity(1.0, "a")), Err(Error::AnotherRun { .. })));
    assert!(matches!(resume_as(identity(1.0, "a"), Identity::new()), Err(Error::AnotherRun { .. })));
}

#[test]
fn a_checkpoint_without_an_identity_is_refused_by_a_run_that_has_one() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path());
    train(&arguments, None, Some(4)).unwrap();
    fs::remove_dir_all(directory.path().join("checkpoint-3")).unwrap();
    // As earlier versions saved it.
    let state = directory.path().join("checkpoint-4/engine_state.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    for name in ["identity", "run", "optimizer", "schedule"] {
        json.as_object_mut().unwrap().remove(name).unwrap();
    }
    json["arguments"].as_object_mut().unwrap().remove("overwrite_output_dir").unwrap();
    fs::write(&state, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
    seal_again(&directory.path().join("checkpoint-4"), "engine_state.json");

    let ((rows, evaluation), mlp) = (data(), model());
    let trainer = || Trainer::new(arguments.clone(), mlp.parameters()).unwrap().resume(Resume::Newest);
    let error = trainer().identity(Identity::new().with("alpha", 32)).fit(&mlp, &rows, Some(&evaluation));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("checkpoint-4: version ") && error.contains("same run"), "{error}");
    assert!(trainer().fit(&mlp, &rows, Some(&evaluation)).is_ok(), "a run without an identity accepts it");
}

/// Updates the manifest of a checkpoint for a changed file.
fn seal_again(checkpoint: &Path, name: &str) {
    let path = checkpoint.join("complete.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let bytes = fs::read(checkpoint.join(name)).unwrap();
    let crc32 = crc32fast::hash(&bytes);
    manifest["files"][name] = serde_json::json!({ "bytes": bytes.len(), "crc32": crc32 });
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_run_has_a_unique_name_that_a_resume_keeps() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let name = |trained: &Trained| {
        trained.events.iter().find_map(|event| match event {
            Event::Started { run, .. } => Some(run.clone()),
            _ => None,
        })
    };
    let begun = train(&arguments(first.path()), None, Some(4)).unwrap();
    let resumed = train(&arguments(first.path()), Some(Resume::Newest), None).unwrap();
    let other = train(&arguments(second.path()), None, Some(4)).unwrap();
    assert_eq!(name(&begun), name(&resumed));
    assert_ne!(name(&begun), name(&other));
    let saved = SavedCheckpoint::list(first.path()).unwrap();
    assert_eq!(saved.iter().map(|checkpoint| checkpoint.step).collect::<Vec<_>>(), [9, 6, 4, 3]);
    assert!(
        saved.iter().all(|checkpoint| checkpoint.run.as_ref().map(|run| &run.name) == name(&begun).as_ref())
    );
}

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

#[test]
fn a_run_that_moves_to_another_directory_changes_no_other_run_there() {
    let [first, second, empty] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let whole = train(&arguments(first.path()), None, None).unwrap();
    train(&arguments(second.path()), None, Some(5)).unwrap();
    let named = Resume::From(first.path().join("checkpoint-6"));
    let limited = |output_dir: &Path| TrainingArguments {
        save_total_limit: Some(0),
        overwrite_output_dir: true,
        ..arguments(output_dir)
    };
    let error = train(&limited(second.path()), Some(named.clone()), None).err().unwrap();
    assert!(matches!(&error, Error::ForeignCheckpoints { paths, .. } if paths.len() == 2), "{error}");
    assert!(error.to_string().starts_with("checkpoint-3, checkpoint-5 in the output directory"), "{error}");
    let checkpoints = [3, 5, 9].map(|step| second.path().join(format!("checkpoint-{step}")).is_dir());
    assert_eq!(checkpoints, [true, true, false]);

    let resumed = train(&limited(empty.path()), Some(named), None).unwrap();
    assert_eq!(resumed.bits(), whole.bits());
    assert!(first.path().join("checkpoint-9").is_dir(), "the checkpoints it left are kept");
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
