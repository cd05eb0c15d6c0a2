//! Invalid arguments and parameters.

use super::*;

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
