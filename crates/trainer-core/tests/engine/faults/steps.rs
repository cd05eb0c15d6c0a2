//! Steps that fail, or whose numbers are not finite.

use super::*;

#[test]
fn a_nan_loss_stops_the_run_before_the_update() {
    let (message, events, directory) = with_fault(Fault::NanLoss);
    let checkpoint = directory.path().join("checkpoint-2").display().to_string();
    for part in ["step 4", "loss of micro-batch 2 of 4 is NaN", "learning rate", "rows 10, 11", &checkpoint] {
        assert!(message.contains(part), "no '{part}' in: {message}");
    }
    assert_eq!(steps(&events), 3);
}

#[test]
fn an_infinite_gradient_stops_the_run_before_the_update() {
    let (message, events, _directory) = with_fault(Fault::InfiniteGradient);
    for part in ["step 4", "gradient norm is NaN", "rows 8, 9; rows 10, 11", "checkpoint-2"] {
        assert!(message.contains(part), "no '{part}' in: {message}");
    }
    assert_eq!(steps(&events), 3);
}

#[test]
fn a_step_that_is_not_finite_is_skipped_with_on_nan_skip() {
    for fault in [Fault::NanLoss, Fault::InfiniteGradient] {
        let (message, events, _directory) = with_fault_and(fault, |arguments| arguments.on_nan = OnNan::Skip);
        assert_eq!(message, "finished");
        assert_eq!(steps(&events), 5);
        let warnings: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Warning(warning) => Some(warning.to_string()),
                _ => None,
            })
            .collect();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(warning.starts_with("skipped, 1 of at most 10: step 4: the "), "{warning}");
        assert!(warning.contains("rows 10, 11") && warning.contains("learning rate"), "{warning}");
    }
}

#[test]
fn no_more_steps_are_skipped_than_allowed() {
    let (message, events, _directory) = with_fault_and(Fault::NanLoss, |arguments| {
        (arguments.on_nan, arguments.max_skipped_steps) = (OnNan::Skip, 0);
    });
    assert!(
        message.starts_with("the limit of skipped steps (0) is reached")
            && message.contains("step 4: the loss")
    );
    assert!(message.contains("last good checkpoint") && !message.contains("on_nan"), "{message}");
    assert_eq!(steps(&events), 3);
}

/// A run whose step 4 is skipped ends with the parameters, moments and step counts of a run of 3 steps.
#[test]
fn a_skipped_step_does_not_change_the_optimizer() {
    let directory = tempfile::tempdir().unwrap();
    let run = |fault, on_nan, max_steps| {
        let task = Faulty { mlp: Mlp::new(5), fault, step: 3 };
        let arguments = TrainingArguments {
            on_nan,
            max_steps: Some(max_steps),
            lr_scheduler_type: SchedulerType::Constant,
            eval_strategy: IntervalStrategy::No,
            load_best_model_at_end: false,
            ..arguments(&directory.path().join(format!("{max_steps}")))
        };
        let trainer = Trainer::new(arguments, task.mlp.parameters()).unwrap();
        let _finished = trainer.fit(&task, &rows(16), None).unwrap();
        (
            task.mlp.bits(),
            fs::read(
                directory.path().join(format!("{max_steps}/checkpoint-{max_steps}/optimizer.safetensors")),
            )
            .unwrap(),
        )
    };
    let skipped = run(Fault::NanLoss, OnNan::Skip, 4);
    let shorter = run(Fault::TaskError, OnNan::Stop, 3);
    assert!(skipped == shorter);
}

#[test]
fn parameters_that_did_not_change_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let warnings = |learning_rate| {
        let (sink, events) = recorder();
        let mlp = Mlp::new(5);
        let output_dir = directory.path().join(format!("{learning_rate}"));
        let arguments = TrainingArguments { learning_rate, ..arguments(&output_dir) };
        let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(sink);
        let _finished = trainer.fit(&mlp, &rows(16), Some(&rows(4))).unwrap();
        let events = events.lock().unwrap();
        let unchanged = events.iter().filter_map(|event| match event {
            Event::Warning(Warning::ParametersUnchanged { all, .. }) => Some(*all),
            _ => None,
        });
        unchanged.collect::<Vec<_>>()
    };
    assert_eq!(warnings(0.0), [true]);
    assert_eq!(warnings(0.05), [false; 0]);
}

#[test]
fn a_failed_step_updates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let task = Faulty { mlp: Mlp::new(5), fault: Fault::NanLoss, step: 0 };
    let before = task.mlp.bits();
    let arguments = TrainingArguments { warmup_ratio: 0.0, ..arguments(directory.path()) };
    let error = Trainer::new(arguments, task.mlp.parameters()).unwrap().fit(&task, &rows(16), Some(&rows(4)));
    assert!(error.unwrap_err().to_string().contains("no checkpoint was saved yet"));
    assert_eq!(task.mlp.bits(), before);
}

#[test]
fn a_run_that_moved_to_another_directory_names_the_checkpoint_it_resumed_from() {
    let (_, _, first) = with_fault(Fault::NanLoss);
    let (checkpoint, second) = (first.path().join("checkpoint-2"), tempfile::tempdir().unwrap());
    let task = Faulty { mlp: Mlp::new(5), fault: Fault::NanLoss, step: 3 };
    let trainer = Trainer::new(arguments(second.path()), task.mlp.parameters()).unwrap();
    let trainer = trainer.resume(Resume::From(checkpoint.clone()));
    let error = trainer.fit(&task, &rows(16), Some(&rows(4))).unwrap_err().to_string();
    assert!(error.contains(&format!("last good checkpoint: {}", checkpoint.display())), "{error}");
}

#[test]
fn all_parameters_without_a_gradient_are_named() {
    let (message, events, _directory) = with_fault(Fault::MissingGradients);
    assert!(message.contains("step 4") && message.contains("l1.bias, l1.weight, l2.weight;"), "{message}");
    assert_eq!(steps(&events), 3);
}

#[test]
fn a_loss_that_is_not_finite_is_told_before_gradients_that_are_missing() {
    let (message, events, _directory) = with_fault(Fault::NanWithoutGradients);
    assert!(message.contains("step 4") && message.contains("loss of micro-batch 1 of 4 is NaN"), "{message}");
    assert_eq!(steps(&events), 3);
}

#[test]
fn a_loss_that_is_not_a_scalar_is_refused() {
    let (message, ..) = with_fault(Fault::NotAScalar);
    assert!(message.contains("scalar") && message.contains("[1]"), "{message}");
}

#[test]
fn a_task_that_cannot_merge_is_found_at_the_first_step() {
    let (message, events, _directory) =
        with_fault_and(Fault::NanEvaluation, |arguments| arguments.fused_micro_batches = 2);
    assert!(message.contains("step 1") && message.contains("fused_micro_batches must be 1"), "{message}");
    assert_eq!(steps(&events), 0);
}

#[test]
fn errors_of_the_task_name_the_step_and_the_batch() {
    let (message, ..) = with_fault(Fault::TaskError);
    assert_eq!(message, "step 4: the task failed (batch: rows 10, 11): the task gave up");
    let (message, ..) = with_fault(Fault::EvaluationError);
    assert_eq!(message, "evaluation: the task failed (batch: rows 0, 1): no evaluation today");
}
