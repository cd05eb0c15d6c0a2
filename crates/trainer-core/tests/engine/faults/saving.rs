//! Output directories, evaluations and models that cannot be written or evaluated.

use super::*;

#[test]
fn an_output_directory_that_cannot_be_written_is_found_before_training() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a-file");
    fs::write(&file, "not a directory").unwrap();
    let (mlp, output_dir) = (Mlp::new(5), file.join("run"));
    let before = mlp.bits();
    let error = fit(arguments(&output_dir), &mlp, &rows(8)).unwrap_err();
    assert!(matches!(&error, Error::OutputDir { path, .. } if *path == output_dir), "{error}");
    assert!(error.to_string().contains(&output_dir.display().to_string()), "{error}");
    assert_eq!(mlp.bits(), before);
}

#[test]
fn failing_evaluation_and_saving_are_found_before_the_first_step() {
    for (fault, expected) in
        [(Fault::EvaluationError, "no evaluation"), (Fault::SaveError, "adapter cannot be saved")]
    {
        let (message, events, directory) = with_fault(fault);
        assert!(message.contains(expected), "{message}");
        assert_eq!(steps(&events), 0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
    }
}

#[test]
fn failing_saving_is_found_even_if_the_run_would_save_only_when_stopped() {
    let (message, events, _directory) = with_fault_and(Fault::SaveError, |arguments| {
        (arguments.save_strategy, arguments.load_best_model_at_end) = (IntervalStrategy::No, false);
    });
    assert!(message.contains("adapter cannot be saved"), "{message}");
    assert_eq!(steps(&events), 0);
}

#[test]
fn an_evaluation_that_is_not_finite_is_never_the_best() {
    let (message, events, directory) = with_fault(Fault::NanEvaluation);
    assert_eq!(message, "finished");
    let warned = |event: &&Event| matches!(event, Event::Warning(Warning::EvaluationNotFinite { .. }));
    assert_eq!(events.iter().filter(warned).count(), 3);
    let state = fs::read_to_string(directory.path().join("trainer_state.json")).unwrap();
    let state: trainer_core::TrainerState = serde_json::from_str(&state).unwrap();
    assert_eq!((state.best_metric, state.best_global_step), (None, None));
}
