//! Comparison with torch and transformers. `../fixtures/make_reference.py` writes their numbers to `reference.json`.

use std::collections::BTreeMap;

use super::common::{Mlp, Row, Rows, values};
use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use trainer_core::{
    AdamW, Gradients, LogEntry, Optimizer, OptimizerType, Outcome, ParameterGroup, Parameters, Schedule,
    SchedulerType, Trainer, TrainingArguments, epoch_order,
};

fn reference() -> Value {
    serde_json::from_str(include_str!("../fixtures/reference.json")).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn shape(value: &Value) -> Vec<usize> {
    value.as_array().map_or(Vec::new(), |values| [vec![values.len()], shape(&values[0])].concat())
}

fn tensor(value: &Value) -> Tensor {
    let values: Vec<f32> = numbers(value).into_iter().map(|number| number as f32).collect();
    Tensor::from_vec(values, shape(value), &Device::Cpu).unwrap()
}

fn variables(values: &Value) -> BTreeMap<String, Var> {
    let values = values.as_object().unwrap();
    values.iter().map(|(name, value)| (name.clone(), Var::from_tensor(&tensor(value)).unwrap())).collect()
}

/// Gradients from a backward pass through a sum of products, whose gradients are the factors.
fn gradients(parameters: &Parameters, wanted: &BTreeMap<String, Tensor>) -> Gradients {
    let terms = parameters
        .iter()
        .filter_map(|(name, variable)| Some((variable.as_tensor() * wanted.get(name)?).unwrap()));
    let loss = terms.map(|term| term.sum_all().unwrap()).reduce(|sum, term| (sum + term).unwrap()).unwrap();
    let mut gradients = Gradients::new();
    gradients.accumulate(parameters, loss.backward().unwrap()).unwrap();
    gradients
}

fn assert_close<T: Copy + Into<f64>>(got: &[T], expected: &Value, tolerance: f64, what: &str) {
    let expected = numbers(expected);
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        let got: f64 = (*got).into();
        assert!(
            (got - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{what}: {got} is not {expected}"
        );
    }
}

#[test]
fn the_default_arguments_are_those_of_transformers() {
    let ours = serde_json::to_value(TrainingArguments::default()).unwrap();
    for (name, value) in reference()["defaults"].as_object().unwrap() {
        match (&ours[name], value) {
            (Value::Number(ours), Value::Number(value)) => {
                assert_eq!(ours.as_f64(), value.as_f64(), "{name}")
            }
            (ours, value) => assert_eq!(ours, value, "{name}"),
        }
    }
}

#[test]
fn epoch_orders_equal_the_recorded_ones() {
    for case in reference()["orders"].as_array().unwrap() {
        let order = epoch_order(read(&case["seed"]), read(&case["epoch"]), read(&case["n"]));
        assert_eq!(order, read::<Vec<usize>>(&case["order"]), "{case}");
    }
}

#[test]
fn learning_rates_equal_those_of_transformers() {
    for case in reference()["schedules"].as_array().unwrap() {
        let kind: SchedulerType = read(&case["kind"]);
        let total = read(&case["total"]);
        let schedule = Schedule::new(kind, 5e-5, read(&case["ratio"]), total).with(read(&case["options"]));
        assert_eq!(schedule.warmup_steps(), read::<usize>(&case["warmup"]), "{case}");
        let rates: Vec<f64> = (0..total).map(|step| schedule.learning_rate(step)).collect();
        for (rate, expected) in rates.iter().zip(numbers(&case["rates"])) {
            assert!((rate - expected).abs() <= 1e-15 * 5e-5, "{rate} is not {expected}: {case}");
        }
    }
}

#[test]
fn ten_steps_of_adamw_equal_those_of_torch() {
    let reference = &reference()["adamw"];
    let hyper = &reference["hyper"];
    let [adam_beta1, adam_beta2] = read(&hyper["betas"]);
    // One group with all parameters, because torch decays one-dimensional parameters too.
    let all = ParameterGroup {
        name_contains: String::new(),
        lr_ratio: 1.0,
        weight_decay: read(&hyper["weight_decay"]),
    };
    let arguments = TrainingArguments {
        adam_beta1,
        adam_beta2,
        adam_epsilon: read(&hyper["eps"]),
        parameter_groups: vec![all],
        ..Default::default()
    };
    let variables = variables(&reference["initial"]);
    let parameters = Parameters::new(variables.clone()).unwrap();
    let mut optimizer = AdamW::new(&arguments, &parameters).unwrap();
    for (index, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
        let wanted = step["gradients"].as_object().unwrap().iter();
        let wanted =
            wanted.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), tensor(value)));
        let gradients = gradients(&parameters, &wanted.collect());
        optimizer.step(&parameters, &gradients, read(&step["rate"])).unwrap();
        for (name, variable) in &variables {
            assert_close(
                &values(variable),
                &step["values"][name],
                1e-6,
                &format!("{name} after step {index}"),
            );
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("optimizer.safetensors");
    optimizer.save(&file).unwrap();
    let state = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for (name, moments) in reference["moments"].as_object().unwrap() {
        for moment in ["exp_avg", "exp_avg_sq"] {
            let key = format!("{name}.{moment}");
            assert_close(&values(&state[&key]), &moments[moment], 1e-6, &key);
        }
        assert_eq!(state[&format!("{name}.step")].to_scalar::<i64>().unwrap(), read::<i64>(&moments["step"]));
    }
}

#[test]
fn parameter_groups_and_sgd_equal_those_of_torch() {
    for (name, case) in reference()["optimizers"].as_object().unwrap() {
        let optim: OptimizerType = serde_json::from_value(name.as_str().into()).unwrap();
        let group = ParameterGroup {
            name_contains: "lora_B".to_owned(),
            lr_ratio: read(&case["ratio"]),
            weight_decay: None,
        };
        let arguments = TrainingArguments {
            optim,
            sgd_momentum: 0.9,
            weight_decay: read(&case["decay"]),
            parameter_groups: vec![group],
            ..Default::default()
        };
        let variables = variables(&case["initial"]);
        let parameters = Parameters::new(variables.clone()).unwrap();
        let mut optimizer = OptimizerType::build(&arguments, &parameters).unwrap();
        assert_eq!(optimizer.name(), name);
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let wanted = step["gradients"].as_object().unwrap().iter();
            let wanted = wanted.map(|(name, value)| (name.clone(), tensor(value))).collect();
            optimizer.step(&parameters, &gradients(&parameters, &wanted), read(&step["rate"])).unwrap();
            for (parameter, variable) in &variables {
                let what = format!("{parameter} after step {index} of {name}");
                assert_close(&values(variable), &step["values"][parameter], 1e-6, &what);
            }
        }
    }
}

#[test]
fn clipping_equals_that_of_torch() {
    for case in reference()["clipping"].as_array().unwrap() {
        let before = case["before"].as_array().unwrap();
        let wanted: BTreeMap<_, _> =
            before.iter().enumerate().map(|(index, g)| (index.to_string(), tensor(g))).collect();
        let zeros = wanted
            .iter()
            .map(|(name, g)| (name.clone(), Var::from_tensor(&g.zeros_like().unwrap()).unwrap()));
        let mut gradients = gradients(&Parameters::new(zeros).unwrap(), &wanted);
        let norm = gradients.norms().unwrap().global();
        assert_close(&[norm], &case["norm"], 1e-6, "norm");
        gradients.clip(norm, 1.0).unwrap();
        for (index, after) in case["after"].as_array().unwrap().iter().enumerate() {
            assert_close(&values(gradients.get(&index.to_string()).unwrap()), after, 1e-6, "clipped");
        }
    }
}

/// The whole loop against `transformers.Trainer`: accumulation with masked targets and a short last step in each
/// epoch, warm-up, clipping, evaluation, logging, and the selection of the best checkpoint.
#[test]
fn a_run_logs_the_same_as_the_trainer_of_transformers() {
    let reference = &reference()["trainer"];
    let rows = |name: &str| {
        let rows = reference[name].as_array().unwrap().iter();
        rows.map(|row| Row { x: read(&row["x"]), labels: read(&row["labels"]) }).collect()
    };
    let train = Rows { rows: rows("train"), batch_size: 2, shuffle: None };
    let evaluation = Rows { rows: rows("evaluation"), batch_size: 2, shuffle: None };
    let directory = tempfile::tempdir().unwrap();
    let arguments: TrainingArguments = read(&reference["arguments"]);
    let arguments = TrainingArguments { output_dir: directory.path().to_owned(), ..arguments };

    let mlp = Mlp { variables: variables(&reference["initial"]), dropout: 0.0 };
    let outcome =
        Trainer::new(arguments, mlp.parameters()).unwrap().fit(&mlp, &train, Some(&evaluation)).unwrap();
    let Outcome::Finished { state } = outcome else { panic!("no stop was requested") };

    let expected = &reference["state"];
    let entries = expected["log_history"].as_array().unwrap();
    assert_eq!(state.log_history.len(), entries.len());
    for (entry, expected) in state.log_history.iter().zip(entries) {
        let json = serde_json::to_value(entry).unwrap();
        let exact: &[&str] = &["epoch", "step"];
        let close: &[(&str, f64)] = match entry {
            LogEntry::Train { .. } => &[("loss", 1e-5), ("grad_norm", 1e-5), ("learning_rate", 1e-12)],
            LogEntry::Evaluation { .. } => &[("eval_loss", 1e-5)],
            // transformers averages over steps, the engine over targets.
            _ => &[("train_loss", 0.05)],
        };
        for &key in exact {
            assert_eq!(json[key], expected[key], "{key} of {expected}");
        }
        for &(key, tolerance) in close {
            assert_close(&[json[key].as_f64().unwrap()], &expected[key], tolerance, key);
        }
        // The engine does not know the number of floating-point operations, and adds the perplexity.
        let other = ["total_flos", "eval_perplexity"];
        let keys = |value: &Value| {
            value.as_object().unwrap().keys().filter(|key| !other.contains(&key.as_str())).cloned().collect()
        };
        let (got, wanted): (Vec<String>, Vec<String>) = (keys(&json), keys(expected));
        assert_eq!(got, wanted);
    }

    let json = serde_json::to_value(&state).unwrap();
    for (key, value) in json.as_object().unwrap() {
        let wanted = &expected[key];
        match key.as_str() {
            "log_history" => {}
            "best_metric" => assert_close(&[value.as_f64().unwrap()], wanted, 1e-5, key),
            "best_model_checkpoint" => assert!(value.as_str().unwrap().ends_with(wanted.as_str().unwrap())),
            _ => assert_eq!(value, wanted, "{key}"),
        }
    }
    for (name, variable) in &mlp.variables {
        assert_close(&values(variable), &reference["best"][name], 1e-5, &format!("best {name}"));
    }
}
