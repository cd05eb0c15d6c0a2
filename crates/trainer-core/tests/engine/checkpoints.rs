//! When checkpoints are saved, what they contain, and which are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::common::{Mlp, Rows, arguments, contrary, random_rows, recorder, values};
use trainer_core::{
    BoxError, Error, Event, IntervalStrategy, Resume, Trainer, TrainerState, TrainingArguments, Warning,
    evaluate,
};

/// Three steps an epoch, three epochs unless the arguments say otherwise.
fn train(arguments: TrainingArguments) -> (Mlp, TrainerState, Vec<Event>) {
    let mlp = Mlp::new(5);
    let (sink, events) = recorder();
    let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(sink);
    let outcome = trainer.fit(&mlp, &rows(), Some(&evaluation())).unwrap();
    let events = events.lock().unwrap().clone();
    (mlp, outcome.state().clone(), events)
}

fn rows() -> Rows {
    Rows { rows: random_rows(1, 21), batch_size: 2, shuffle: Some(9) }
}

/// Every evaluation is worse than the one before it.
fn evaluation() -> Rows {
    Rows { rows: contrary(&random_rows(1, 21)), batch_size: 4, shuffle: None }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn every_epoch_leaves_a_complete_checkpoint_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    train(arguments(directory.path()));
    assert_eq!(
        names(directory.path()),
        set(&["checkpoint-3", "checkpoint-6", "checkpoint-9", "trainer_state.json"])
    );
    assert_eq!(
        names(&directory.path().join("checkpoint-6")),
        set(&[
            "complete.json",
            "engine_state.json",
            "model.txt",
            "optimizer.safetensors",
            "parameters.safetensors",
            "trainer_state.json"
        ])
    );
}

#[test]
fn the_state_on_disk_is_the_state_returned() {
    let directory = tempfile::tempdir().unwrap();
    let (_, state, _) = train(arguments(directory.path()));
    let read: TrainerState =
        serde_json::from_slice(&fs::read(directory.path().join("trainer_state.json")).unwrap()).unwrap();
    assert_eq!(read, state);
    assert_eq!((read.global_step, read.max_steps, read.epoch), (9, 9, 3.0));
}

#[test]
fn the_parameters_of_the_best_evaluation_are_loaded_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mlp, state, events) = train(arguments(directory.path()));
    assert_eq!(state.best_global_step, Some(3));
    let best = directory.path().join("checkpoint-3");
    assert_eq!(state.best_model_checkpoint.as_ref(), Some(&best));
    assert!(events.iter().any(|event| matches!(event, Event::BestLoaded { path, .. } if *path == best)));
    let again = evaluate(&mlp, &evaluation()).unwrap();
    assert_eq!(Some(again.loss.mean()), state.best_metric, "the loaded parameters have the recorded loss");

    let saved =
        candle_core::safetensors::load(best.join("parameters.safetensors"), &candle_core::Device::Cpu)
            .unwrap();
    for (name, variable) in &mlp.variables {
        assert_eq!(values(&saved[name]), values(variable), "{name}");
    }
}

#[test]
fn damaged_best_parameters_are_not_loaded_and_the_last_ones_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (best, mlp) = (directory.path().join("checkpoint-3"), Mlp::new(5));
    let file = best.join("parameters.safetensors");
    let damage = move |event: &Event| -> Result<(), BoxError> {
        if matches!(event, Event::Step(report) if report.global_step == 9) {
            let mut content = fs::read(&file)?;
            *content.last_mut().unwrap() ^= 1;
            fs::write(&file, content)?;
        }
        Ok(())
    };
    let (sink, events) = recorder();
    let trainer =
        Trainer::new(arguments(directory.path()), mlp.parameters()).unwrap().sink(damage).sink(sink);
    let outcome = trainer.fit(&mlp, &rows(), Some(&evaluation())).unwrap();
    let events = events.lock().unwrap();
    let warning = events.iter().find_map(|event| match event {
        Event::Warning(Warning::BestNotLoaded { path, reason }) => Some((path, reason)),
        _ => None,
    });
    let (path, reason) = warning.unwrap();
    assert_eq!(path, &best);
    assert!(reason.contains("parameters.safetensors does not have the checksum"), "{reason}");
    assert!(!events.iter().any(|event| matches!(event, Event::BestLoaded { .. })));
    assert_eq!((outcome.state().best_global_step, &outcome.state().best_model_checkpoint), (Some(3), &None));
    let last = directory.path().join("checkpoint-9/parameters.safetensors");
    let last = candle_core::safetensors::load(last, &candle_core::Device::Cpu).unwrap();
    assert_eq!(values(&last["l2.weight"]), values(&mlp.variables["l2.weight"]));
}

#[cfg(unix)]
#[test]
fn every_file_of_a_checkpoint_has_the_usual_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "a file like any other").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    train(TrainingArguments { max_steps: Some(3), ..arguments(directory.path()) });
    let checkpoint = directory.path().join("checkpoint-3");
    for name in names(&checkpoint) {
        assert_eq!(mode(&checkpoint.join(&name)), mode(&plain), "{name}");
    }
}

#[test]
fn parameters_that_cannot_be_saved_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (parameters, path) = (Mlp::new(5).parameters(), directory.path().join("model.safetensors"));
    fs::create_dir_all(path.join("in the way")).unwrap();
    let error = parameters.save(&path).unwrap_err();
    assert!(
        matches!(&error, Error::Io { action: "write", path: refused, .. } if *refused == path),
        "{error}"
    );
    assert_eq!(names(directory.path()), set(&["model.safetensors"]));

    fs::remove_dir_all(&path).unwrap();
    parameters.save(&path).unwrap();
    parameters.save(&path).unwrap();
    parameters.load(&path).unwrap();
    assert_eq!(names(directory.path()), set(&["model.safetensors"]));
}

#[test]
fn without_load_best_model_at_end_the_last_parameters_stay() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments { load_best_model_at_end: false, ..arguments(directory.path()) };
    let (mlp, state, _) = train(arguments);
    assert_eq!(state.best_global_step, Some(3));
    let last = directory.path().join("checkpoint-9/parameters.safetensors");
    let last = candle_core::safetensors::load(last, &candle_core::Device::Cpu).unwrap();
    assert_eq!(values(&last["l2.weight"]), values(&mlp.variables["l2.weight"]));
}

#[test]
fn a_limit_of_zero_keeps_the_newest_and_the_best() {
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        TrainingArguments { num_train_epochs: 5.0, save_total_limit: Some(0), ..arguments(directory.path()) };
    let (_, state, events) = train(arguments);
    assert_eq!(state.best_global_step, Some(3));
    assert_eq!(names(directory.path()), set(&["checkpoint-3", "checkpoint-15", "trainer_state.json"]));
    let removed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::CheckpointRemoved { path } => Some(path.file_name().unwrap().to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(removed, ["checkpoint-6", "checkpoint-9", "checkpoint-12"]);
}

/// Tries to begin a run.
fn refusal(arguments: TrainingArguments) -> Error {
    let mlp = Mlp::new(5);
    let trainer = Trainer::new(arguments, mlp.parameters()).unwrap();
    trainer.fit(&mlp, &rows(), Some(&evaluation())).unwrap_err()
}

#[test]
fn a_new_run_replaces_another_only_with_overwrite_output_dir() {
    let directory = tempfile::tempdir().unwrap();
    train(arguments(directory.path()));
    let short = TrainingArguments { num_train_epochs: 2.0, ..arguments(directory.path()) };
    let error = refusal(short.clone());
    assert!(matches!(&error, Error::EarlierCheckpoints { paths, .. } if paths.len() == 3), "{error}");
    let message = error.to_string();
    assert!(message.contains("checkpoint-3, checkpoint-6, checkpoint-9; resume it"), "{message}");
    let all = set(&["checkpoint-3", "checkpoint-6", "checkpoint-9", "trainer_state.json"]);
    assert_eq!(names(directory.path()), all);

    // Nor does a run that cannot start.
    let overwrite = TrainingArguments { overwrite_output_dir: true, ..short };
    refusal(TrainingArguments { metric_for_best_model: "grace".to_owned(), ..overwrite.clone() });
    assert_eq!(names(directory.path()), all);
    train(overwrite);
    assert_eq!(names(directory.path()), set(&["checkpoint-3", "checkpoint-6", "trainer_state.json"]));
}

#[test]
fn files_that_no_run_wrote_are_never_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let overwrite = TrainingArguments { overwrite_output_dir: true, ..arguments(directory.path()) };
    let path = |name: &str| directory.path().join(name);
    // A checkpoint of another program, at a step at which the run would save.
    fs::create_dir(path("checkpoint-6")).unwrap();
    fs::write(path("checkpoint-6/trainer_state.json"), "{}").unwrap();
    let error = refusal(overwrite.clone());
    assert!(
        matches!(&error, Error::ForeignCheckpoints { paths, .. } if paths == &[path("checkpoint-6")]),
        "{error}"
    );
    let words = "checkpoint-6 in the output directory";
    assert!(error.to_string().contains(words) && error.to_string().contains("move it away"), "{error}");
    assert!(path("checkpoint-6/trainer_state.json").exists());
    fs::remove_dir_all(path("checkpoint-6")).unwrap();

    // Notes in a checkpoint of the engine.
    train(overwrite.clone());
    fs::create_dir(path("checkpoint-9/notes")).unwrap();
    fs::write(path("checkpoint-9/notes/mine.txt"), "keep me").unwrap();
    let error = refusal(overwrite);
    assert!(matches!(&error, Error::ForeignFiles { names, .. } if names == &["notes/mine.txt"]), "{error}");
    assert_eq!(fs::read_to_string(path("checkpoint-9/notes/mine.txt")).unwrap(), "keep me");
    // A directory with a name similar to those that a crash leaves behind.
    fs::create_dir(path(".checkpoint-notes")).unwrap();
    refusal(arguments(directory.path()));
    assert!(path(".checkpoint-notes").is_dir());
}

#[test]
fn notes_in_a_checkpoint_survive_the_limit_and_a_second_save() {
    let directory = tempfile::tempdir().unwrap();
    let note = directory.path().join("checkpoint-3/note.txt");
    let write = {
        let note = note.clone();
        move |event: &Event| -> Result<(), BoxError> {
            if matches!(event, Event::CheckpointSaved { global_step: 3, .. }) {
                fs::write(&note, "keep me")?;
            }
            Ok(())
        }
    };
    let limited = TrainingArguments {
        save_total_limit: Some(0),
        eval_strategy: IntervalStrategy::No,
        load_best_model_at_end: false,
        ..arguments(directory.path())
    };
    let (mlp, (sink, events)) = (Mlp::new(5), recorder());
    let trainer = Trainer::new(limited.clone(), mlp.parameters()).unwrap().sink(write).sink(sink);
    let _finished = trainer.fit(&mlp, &rows(), None).unwrap();
    let kept = events.lock().unwrap().iter().find_map(|event| match event {
        Event::Warning(Warning::CheckpointNotRemoved { path, reason }) => {
            Some((path.clone(), reason.clone()))
        }
        _ => None,
    });
    let (path, reason) = kept.unwrap();
    assert!(path.ends_with("checkpoint-3") && reason.contains("note.txt"), "{reason}");
    assert_eq!(names(directory.path()), set(&["checkpoint-3", "checkpoint-9", "trainer_state.json"]));

    let last = directory.path().join("checkpoint-9/note.txt");
    fs::write(&last, "keep me too").unwrap();
    let resume = Resume::From(directory.path().join("checkpoint-3"));
    let trainer = Trainer::new(limited, mlp.parameters()).unwrap().resume(resume);
    let _finished = trainer.fit(&mlp, &rows(), None).unwrap();
    assert_eq!(fs::read_to_string(last).unwrap(), "keep me too");
    assert!(!directory.path().join(".checkpoint-9.replaced").exists());
}

#[test]
fn only_a_lack_of_room_is_called_one() {
    let directory = tempfile::tempdir().unwrap();
    let output_dir = directory.path().join("run");
    let gone = output_dir.clone();
    let remove = move |event: &Event| -> Result<(), BoxError> {
        if matches!(event, Event::Step(report) if report.global_step == 2) {
            fs::remove_dir_all(&gone)?;
        }
        Ok(())
    };
    let mlp = Mlp::new(5);
    let trainer = Trainer::new(arguments(&output_dir), mlp.parameters()).unwrap().sink(remove);
    let error = trainer.fit(&mlp, &rows(), Some(&evaluation())).unwrap_err().to_string();
    assert!(error.contains("cannot save the state of step 3") && !error.contains("make room"), "{error}");
}

#[test]
fn an_improvement_is_saved_without_a_save_strategy() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = TrainingArguments {
        eval_strategy: IntervalStrategy::Steps,
        eval_steps: 2,
        save_strategy: IntervalStrategy::No,
        max_steps: Some(7),
        ..arguments(directory.path())
    };
    let (_, state, events) = train(arguments);
    let evaluated: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::EvaluationStarted { global_step, .. } => Some(*global_step),
            _ => None,
        })
        .collect();
    assert_eq!(evaluated, [2, 4, 6, 7]);
    assert_eq!(
        state.best_model_checkpoint,
        state.best_global_step.map(|step| directory.path().join(format!("checkpoint-{step}")))
    );
    assert!(state.best_model_checkpoint.unwrap().is_dir());
}

#[test]
fn leftovers_of_a_crash_are_deleted() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join(".checkpoint-2.partial/deep")).unwrap();
    fs::create_dir_all(directory.path().join("checkpoint-notes")).unwrap();
    train(TrainingArguments { max_steps: Some(3), ..arguments(directory.path()) });
    assert_eq!(
        names(directory.path()),
        set(&["checkpoint-3", "checkpoint-notes", "trainer_state.json"]),
        "and other directories are kept"
    );
}
