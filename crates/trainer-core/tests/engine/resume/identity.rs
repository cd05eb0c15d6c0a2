//! A checkpoint of a different run is refused.

use super::*;

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
