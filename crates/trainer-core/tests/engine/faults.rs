//! Faults are found early, described clearly, and lose nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::common::{Batch, Mlp, Rows, arguments, message, random_rows, recorder, values};
use candle_core::{DType, Device, Tensor, Var};
use trainer_core::{
    AdamW, BatchSource, Batches, BoxError, Error, Event, Gradients, IntervalStrategy, LossSum, LossTotal,
    OnNan, Optimizer, ParameterGroup, Parameters, Resume, SchedulerOptions, SchedulerType, Sgd, StepContext,
    Task, Trainer, TrainingArguments, Warning,
};

fn rows(count: usize) -> Rows {
    Rows { rows: random_rows(1, count), batch_size: 2, shuffle: None }
}

fn fit(arguments: TrainingArguments, mlp: &Mlp, train: &Rows) -> Result<(), Error> {
    let evaluation = rows(4);
    Trainer::new(arguments, mlp.parameters())?.fit(mlp, train, Some(&evaluation)).map(|_| ())
}

// Before the first step.

#[test]
fn all_invalid_arguments_are_listed() {
    let arguments = TrainingArguments {
        output_dir: "".into(),
        num_train_epochs: 0.0,
        max_steps: Some(0),
        learning_rate: f64::NAN,
        warmup_ratio: 1.5,
        gradient_accumulation_steps: 0,
        fused_micro_batches: 0,
        max_grad_norm: -1.0,
        weight_decay: -0.1,
        adam_beta1: 1.0,
        adam_beta2: -0.5,
        adam_epsilon: f64::INFINITY,
        eval_strategy: IntervalStrategy::No,
        eval_steps: 0,
        save_steps: 0,
        early_stopping_patience: Some(0),
        early_stopping_threshold: f64::NAN,
        max_seconds: Some(0.0),
        sgd_momentum: 1.0,
        lr_scheduler_kwargs: SchedulerOptions {
            min_lr_rate: 2.0,
            num_cycles: 0,
            power: 0.0,
            decay_ratio: -0.1,
        },
        parameter_groups: vec![ParameterGroup {
            name_contains: "lora_B".to_owned(),
            lr_ratio: -1.0,
            weight_decay: Some(-2.0),
        }],
        logging_steps: 0,
        load_best_model_at_end: true,
        ..Default::default()
    };
    let Err(Error::Arguments { issues }) = arguments.validate() else { panic!("accepted") };
    for argument in [
        "output_dir",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "warmup_ratio",
        "gradient_accumulation_steps",
        "fused_micro_batches",
        "max_grad_norm",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "eval_steps",
        "save_steps",
        "early_stopping_patience must",
        "early_stopping_threshold",
        "max_seconds",
        "sgd_momentum",
        "lr_scheduler_kwargs.min_lr_rate",
        "lr_scheduler_kwargs.num_cycles",
        "lr_scheduler_kwargs.power",
        "lr_scheduler_kwargs.decay_ratio",
        "parameter_groups `lora_B`: lr_ratio must be at least 0, got -1",
        "parameter_groups `lora_B`: weight_decay must be at least 0, got -2",
        "logging_steps",
        "load_best_model_at_end",
    ] {
        assert_eq!(
            issues.iter().filter(|issue| issue.starts_with(argument)).count(),
            1,
            "{argument}: {issues:?}"
        );
    }
    TrainingArguments::default().validate().unwrap();
}

#[test]
fn only_the_schedule_with_a_decay_ratio_limits_its_warmup() {
    let issues = |lr_scheduler_type, decay_ratio| {
        let lr_scheduler_kwargs = SchedulerOptions { decay_ratio, ..Default::default() };
        let arguments = TrainingArguments {
            warmup_ratio: 0.9,
            lr_scheduler_type,
            lr_scheduler_kwargs,
            ..Default::default()
        };
        arguments.validate().map_err(|error| error.to_string())
    };
    issues(SchedulerType::Linear, 0.2).unwrap();
    issues(SchedulerType::WarmupStableDecay, 0.1).unwrap();
    let refusal = issues(SchedulerType::WarmupStableDecay, 0.2).unwrap_err();
    assert!(refusal.contains("decay_ratio must be at least 0 and at most 1 - warmup_ratio"), "{refusal}");
    let refusal = issues(SchedulerType::Linear, 1.5).unwrap_err();
    assert!(refusal.contains("decay_ratio must be in [0, 1], got 1.5"), "{refusal}");
}

#[test]
fn an_epsilon_that_is_zero_or_infinite_in_f32_is_refused() {
    for adam_epsilon in [0.0, 1e-60, 1e60, -1e-8] {
        let error = TrainingArguments { adam_epsilon, ..Default::default() }.validate().unwrap_err();
        assert!(error.to_string().contains("adam_epsilon must be above 0"), "{error}");
    }
}

#[test]
fn an_unknown_argument_in_a_file_is_refused_by_name() {
    let error = serde_json::from_str::<TrainingArguments>(r#"{"learning_rat": 1e-3}"#).unwrap_err();
    assert!(error.to_string().contains("learning_rat"), "{error}");
}

#[test]
fn a_model_without_parameters_is_an_error() {
    assert!(matches!(Parameters::new(BTreeMap::new()), Err(Error::NoParameters)));
}

#[test]
fn parameters_must_be_f32_and_have_one_name() {
    let half = Var::zeros(2, DType::F16, &Device::Cpu).unwrap();
    let error = Parameters::new(BTreeMap::from([("layer.weight".to_owned(), half)])).unwrap_err().to_string();
    assert!(error.contains("layer.weight is F16"), "{error}");

    let shared = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let twice = BTreeMap::from([("embed".to_owned(), shared.clone()), ("head".to_owned(), shared)]);
    let error = Parameters::new(twice).unwrap_err().to_string();
    assert!(error.contains("embed and head"), "{error}");
}

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
fn missing_data_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mlp = Mlp::new(5);
    let trainer = || Trainer::new(arguments(directory.path()), mlp.parameters()).unwrap();
    let none: Vec<Batch> = Vec::new();
    assert!(matches!(trainer().fit(&mlp, &none, Some(&rows(2))), Err(Error::NoBatches { role: "training" })));
    assert!(matches!(
        trainer().fit(&mlp, &rows(2), Some(&none)),
        Err(Error::NoBatches { role: "evaluation" })
    ));
    assert!(matches!(
        trainer().fit(&mlp, &rows(2), None),
        Err(Error::NoEvaluationData { strategy: IntervalStrategy::Epoch })
    ));
}

// An `Mlp` with a fault in one step.

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    NanLoss,
    InfiniteGradient,
    MissingGradients,
    NotAScalar,
    TaskError,
    EvaluationError,
    NanEvaluation,
    SaveError,
}

struct Faulty {
    mlp: Mlp,
    fault: Fault,
    /// The step with the fault, from 0.
    step: u64,
}

impl Task for Faulty {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let LossSum { sum, targets } = self.mlp.train_loss(batch, context)?;
        // The second micro-batch of the step.
        if context.step != self.step || context.first_sample != 2 && self.fault != Fault::MissingGradients {
            return Ok(LossSum { sum, targets });
        }
        let sum = match self.fault {
            Fault::NanLoss => (sum * f64::NAN)?,
            // A square root at 0: its derivative is infinite, its value is not.
            Fault::InfiniteGradient => {
                let weight = self.mlp.variables["l2.bias"].as_tensor();
                (sum + (weight - weight.detach())?.sqr()?.sum_all()?.sqrt()?)?
            }
            Fault::MissingGradients => {
                let bias = self.mlp.variables["l2.bias"].as_tensor();
                bias.sqr()?.sum_all()?
            }
            Fault::NotAScalar => sum.reshape(1)?,
            Fault::TaskError => return Err("the task gave up".into()),
            _ => sum,
        };
        Ok(LossSum { sum, targets })
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        match self.fault {
            Fault::EvaluationError => Err("no evaluation today".into()),
            Fault::NanEvaluation => Ok(LossTotal { sum: f64::NAN, targets: 1 }),
            _ => self.mlp.eval_loss(batch),
        }
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.mlp.num_samples(batch)
    }

    fn describe(&self, batch: &Batch) -> String {
        self.mlp.describe(batch)
    }

    fn save_model(&self, _directory: &Path) -> Result<(), BoxError> {
        if self.fault == Fault::SaveError { Err("the adapter cannot be saved".into()) } else { Ok(()) }
    }
}

/// Trains with a fault in step 4 of 6, with 2 steps per epoch. Returns the error, the events and the output directory.
fn with_fault(fault: Fault) -> (String, Vec<Event>, tempfile::TempDir) {
    with_fault_and(fault, |_| {})
}

fn with_fault_and(
    fault: Fault,
    change: impl FnOnce(&mut TrainingArguments),
) -> (String, Vec<Event>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let task = Faulty { mlp: Mlp::new(5), fault, step: 3 };
    let (sink, events) = recorder();
    let mut arguments = arguments(directory.path());
    change(&mut arguments);
    let trainer = Trainer::new(arguments, task.mlp.parameters()).unwrap().sink(sink);
    let outcome = trainer.fit(&task, &rows(16), Some(&rows(4)));
    let message = outcome.map_or_else(|error| message(&error), |_| "finished".to_owned());
    let events = events.lock().unwrap().clone();
    (message, events, directory)
}

fn steps(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Step(_))).count()
}

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
    assert!(message.starts_with("0 steps were already skipped") && message.contains("step 4: the loss"));
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
fn an_unknown_metric_is_found_before_the_first_step() {
    let (message, events, _directory) = with_fault_and(Fault::SaveError, |arguments| {
        arguments.metric_for_best_model = "eval_bleu".to_owned();
    });
    assert_eq!(
        message,
        "metric_for_best_model is eval_bleu, but the metrics of an evaluation are loss, perplexity"
    );
    assert_eq!(steps(&events), 0);
}

#[test]
fn a_group_without_parameters_is_an_error_that_lists_their_names() {
    let (message, ..) = with_fault_and(Fault::NanEvaluation, |arguments| {
        let group = ParameterGroup { name_contains: "lora_B".to_owned(), lr_ratio: 16.0, weight_decay: None };
        arguments.parameter_groups = vec![group];
    });
    assert!(message.contains("`lora_B`") && message.contains("l1.bias, l1.weight"), "{message}");
}

#[test]
fn a_group_whose_parameters_are_all_in_earlier_groups_is_an_error() {
    let (message, ..) = with_fault_and(Fault::NanEvaluation, |arguments| {
        let group = |name: &str| ParameterGroup {
            name_contains: name.to_owned(),
            lr_ratio: 16.0,
            weight_decay: None,
        };
        arguments.parameter_groups = vec![group("l1"), group("bias"), group("l1.weight")];
    });
    let expected = "parameter group `l1.weight` has no parameter that is not in an earlier group";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn an_optimizer_refuses_parameters_of_other_shapes() {
    let parameters = |shape: &[usize]| {
        let variable = Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        Parameters::new([("weight".to_owned(), variable)]).unwrap()
    };
    let gradients = |parameters: &Parameters| {
        let ones = parameters.iter().map(|(name, variable)| (name.to_owned(), variable.ones_like().unwrap()));
        Gradients::from_iter(ones)
    };
    for index in 0..2 {
        let (small, large) = (parameters(&[2, 3]), parameters(&[2, 4]));
        let [adamw, sgd] = built_in_optimizers(&small);
        let mut optimizer = if index == 0 { adamw } else { sgd };
        for parameters in [&large, &small] {
            let refusal = optimizer.step(parameters, &gradients(&large), 0.1).unwrap_err().to_string();
            let expected = "expects shape [2, 3] for the parameter `weight`, got [2, 4]";
            assert!(refusal.contains(expected), "{refusal}");
            let is_unchanged = |variable: &Var| values(variable).iter().all(|value| *value == 0.0);
            assert!(parameters.iter().all(|(_, variable)| is_unchanged(variable)), "{optimizer:?}");
        }
        optimizer.step(&small, &gradients(&small), 0.1).unwrap();
    }
}

fn built_in_optimizers(parameters: &Parameters) -> [Box<dyn Optimizer>; 2] {
    let arguments = TrainingArguments { sgd_momentum: 0.9, ..Default::default() };
    [
        Box::new(AdamW::new(&arguments, parameters).unwrap()),
        Box::new(Sgd::new(&arguments, parameters).unwrap()),
    ]
}

#[test]
fn an_optimizer_refuses_parameters_that_it_was_not_created_for() {
    let parameters = |name: &str| {
        let variable = Var::from_tensor(&Tensor::ones(2, DType::F32, &Device::Cpu).unwrap()).unwrap();
        Parameters::new([(name.to_owned(), variable)]).unwrap()
    };
    let (known, other) = (parameters("known"), parameters("other"));
    let mut gradients = Gradients::new();
    for (_, variable) in known.iter().chain(other.iter()) {
        let loss = variable.as_tensor().sum_all().unwrap();
        for parameters in [&known, &other] {
            gradients.accumulate(parameters, loss.backward().unwrap()).unwrap();
        }
    }
    for mut optimizer in built_in_optimizers(&known) {
        let before = values(known.iter().next().unwrap().1);
        optimizer.step(&known, &gradients, 0.1).unwrap();
        assert_ne!(values(known.iter().next().unwrap().1), before, "{optimizer:?}");
        let refusal = optimizer.step(&other, &gradients, 0.1).unwrap_err();
        assert!(matches!(&refusal, Error::UnknownParameter { name } if name == "other"), "{refusal}");
    }
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

#[test]
fn a_step_without_targets_is_an_error_that_names_its_batches() {
    let directory = tempfile::tempdir().unwrap();
    let mut train = rows(16);
    for row in &mut train.rows[8..16] {
        row.labels.fill(-100);
    }
    let error = fit(arguments(directory.path()), &Mlp::new(5), &train).unwrap_err().to_string();
    assert!(error.contains("step 2") && error.contains("rows 8, 9; rows 10, 11; rows 12, 13"), "{error}");
}

// Data with a fault.

struct Broken {
    error: bool,
}

impl BatchSource for Broken {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        8
    }

    fn epoch(&self, _epoch: usize, _first_batch: usize) -> Batches<'_, Batch> {
        let good = (0..5).map(|number| Ok(super::common::batch(&random_rows(1, 8), &[number])));
        let bad = self.error.then(|| Err("row 17 is not a picture".into()));
        Box::new(good.chain(bad))
    }
}

#[test]
fn data_errors_name_the_epoch_and_the_batch() {
    let directory = tempfile::tempdir().unwrap();
    let mlp = Mlp::new(5);
    let fit = |error| {
        let trainer = Trainer::new(arguments(directory.path()), mlp.parameters()).unwrap();
        message(&trainer.fit(&mlp, &Broken { error }, Some(&rows(4))).unwrap_err())
    };
    assert_eq!(fit(true), "cannot load batch 5 of the training data in epoch 0: row 17 is not a picture");
    assert_eq!(fit(false), "the training data ended after 5 of 8 batches in epoch 0");
}
