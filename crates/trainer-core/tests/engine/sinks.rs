//! The sinks that ship with the engine.

use std::fs;
use std::io::Write;
#[cfg(feature = "progress")]
use std::sync::{Arc, Mutex};

use super::common::{Mlp, Rows, arguments, message, random_rows, recorder, stop_in_step};
use serde_json::Value;
#[cfg(feature = "progress")]
use trainer_core::sinks::ConsoleSink;
#[cfg(feature = "tensorboard")]
use trainer_core::sinks::TensorBoardSink;
use trainer_core::sinks::{CsvSink, JsonLinesSink};
use trainer_core::{
    BoxError, Error, Event, EventSink, IntervalStrategy, LogEntry, Resume, Trainer, TrainingArguments,
};

fn rows() -> (Rows, Rows) {
    (
        Rows { rows: random_rows(1, 16), batch_size: 2, shuffle: None },
        Rows { rows: random_rows(2, 4), batch_size: 2, shuffle: None },
    )
}

/// Two steps an epoch.
fn train(arguments: TrainingArguments, sink: impl EventSink + 'static) {
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(sink);
    let _finished = trainer.fit(&mlp, &rows, Some(&evaluation)).unwrap();
}

#[test]
fn events_arrive_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (sink, events) = recorder();
    train(TrainingArguments { num_train_epochs: 1.0, ..arguments(directory.path()) }, sink);
    let kinds: Vec<Value> = events
        .lock()
        .unwrap()
        .iter()
        .map(|event| serde_json::to_value(event).unwrap()["event"].clone())
        .collect();
    assert_eq!(
        kinds,
        [
            "started",
            "step",
            "log",
            "throughput",
            "step",
            "log",
            "throughput",
            "evaluation_started",
            "log",
            "checkpoint_saved",
            "log",
            "best_loaded",
            "finished"
        ]
    );
}

#[test]
fn events_are_read_back_from_json() {
    let directory = tempfile::tempdir().unwrap();
    let (sink, events) = recorder();
    train(TrainingArguments { num_train_epochs: 1.0, ..arguments(directory.path()) }, sink);
    for event in events.lock().unwrap().iter() {
        let json = serde_json::to_string(event).unwrap();
        assert_eq!(&serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
    }
}

#[test]
fn json_lines_have_all_events_but_steps_and_continue_on_resume() {
    let directory = tempfile::tempdir().unwrap();
    let (log, output_dir) = (directory.path().join("deep/log.jsonl"), directory.path().join("run"));
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let trainer = || {
        let sink = JsonLinesSink::append(&log).unwrap();
        Trainer::new(arguments(&output_dir), mlp.parameters()).unwrap().sink(sink)
    };
    let (stopper, stop) = stop_in_step(3);
    let _ = trainer().sink(stopper).stop_signal(stop).fit(&mlp, &rows, Some(&evaluation)).unwrap();
    let _ = trainer().resume(Resume::Newest).fit(&mlp, &rows, Some(&evaluation)).unwrap();

    let log = fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<_> =
        events.iter().filter(|event| event["loss"].is_number()).map(|event| &event["step"]).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(!kinds.contains(&"step"));
    let at = |kind| kinds.iter().position(|&other| other == kind).unwrap();
    assert!(
        at("started") < at("interrupted")
            && at("interrupted") < at("resumed")
            && at("resumed") < at("finished")
    );
}

#[cfg(feature = "progress")]
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

#[cfg(feature = "progress")]
impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "progress")]
#[test]
fn the_console_without_a_terminal_prints_about_fifty_lines_of_progress() {
    let directory = tempfile::tempdir().unwrap();
    let buffer = Buffer::default();
    let arguments = TrainingArguments {
        num_train_epochs: 100.0,
        save_strategy: IntervalStrategy::Steps,
        save_steps: 100,
        load_best_model_at_end: false,
        ..arguments(directory.path())
    };
    train(arguments, ConsoleSink::lines(buffer.clone()));
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    let steps = text
        .lines()
        .filter(|line| line.starts_with("step ") && line.contains("samples/s"))
        .collect::<Vec<_>>();
    assert_eq!(steps.len(), ConsoleSink::LINES, "200 steps");
    assert!(
        steps[0].starts_with("step 4/200  loss ")
            && steps[0].contains("  lr ")
            && steps[0].ends_with(" left"),
        "{}",
        steps[0]
    );
    assert_eq!(text.lines().filter(|line| line.contains("eval_loss")).count(), 100);
    assert!(text.starts_with("training 175 parameters for 200 steps\n"), "{text}");
    assert!(text.contains("/checkpoint-200") && text.contains("\ntrained for "), "{text}");
}

#[test]
fn csv_lines_have_every_curve_and_continue_on_resume() {
    let directory = tempfile::tempdir().unwrap();
    let (path, output_dir) = (directory.path().join("deep/log.csv"), directory.path().join("run"));
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let trainer = || {
        let sink = CsvSink::append(&path).unwrap();
        Trainer::new(arguments(&output_dir), mlp.parameters()).unwrap().sink(sink)
    };
    let (stopper, stop) = stop_in_step(3);
    let _ = trainer().sink(stopper).stop_signal(stop).fit(&mlp, &rows, Some(&evaluation)).unwrap();
    let state = trainer().resume(Resume::Newest).fit(&mlp, &rows, Some(&evaluation)).unwrap();

    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("step,metric,value"));
    let mut losses = Vec::new();
    for line in lines {
        let [step, metric, value] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let value: f64 = value.parse().unwrap();
        if metric == "train/loss" || metric == "eval/loss" {
            losses.push((step.parse::<usize>().unwrap(), value));
        }
    }
    let logged = state.state().log_history.iter().filter_map(|entry| match entry {
        LogEntry::Train { loss, step, .. } => Some((*step, *loss)),
        LogEntry::Evaluation { eval_loss, step, .. } => Some((*step, *eval_loss)),
        _ => None,
    });
    assert_eq!(losses, logged.collect::<Vec<_>>());
    for metric in
        ["eval/perplexity", "train/samples_per_second", "train/tokens_per_second", "train/learning_rate"]
    {
        assert!(text.contains(metric), "{metric}");
    }
}

#[test]
fn logs_have_each_step_once_after_a_resume_from_an_older_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let (lines, table) = (directory.path().join("log.jsonl"), directory.path().join("log.csv"));
    let output_dir = directory.path().join("run");
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let trainer = || {
        let trainer = Trainer::new(arguments(&output_dir), mlp.parameters()).unwrap();
        trainer.sink(JsonLinesSink::append(&lines).unwrap()).sink(CsvSink::append(&table).unwrap())
    };
    let _ = trainer().fit(&mlp, &rows, Some(&evaluation)).unwrap();
    let whole = fs::read_to_string(&table).unwrap();
    // With an unfinished last line, as a killed process leaves.
    for (path, torn) in [(&lines, "{\"event\": \"lo"), (&table, "6,train/lo")] {
        fs::OpenOptions::new().append(true).open(path).unwrap().write_all(torn.as_bytes()).unwrap();
    }
    let from = |step: usize| Resume::From(output_dir.join(format!("checkpoint-{step}")));
    for step in [4, 2, 6] {
        let _ = trainer().resume(from(step)).fit(&mlp, &rows, Some(&evaluation)).unwrap();
        let log = fs::read_to_string(&lines).unwrap();
        let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let steps_of = |key: &str| -> Vec<u64> {
            let logged = events.iter().filter(|event| event[key].is_number());
            logged.map(|event| event["step"].as_u64().unwrap()).collect()
        };
        assert_eq!(steps_of("loss"), [1, 2, 3, 4, 5, 6], "from {step}");
        assert_eq!((steps_of("eval_loss"), steps_of("train_loss")), (vec![2, 4, 6], vec![6]), "from {step}");
        let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
        let saved: Vec<_> =
            of_kind("checkpoint_saved").iter().map(|event| event["global_step"].clone()).collect();
        assert_eq!(saved, [2, 4, 6], "from {step}");
        assert_eq!(of_kind("finished").len(), 1);

        let keys = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
        };
        assert_eq!(keys(&fs::read_to_string(&table).unwrap()), keys(&whole), "from {step}");
    }
}

/// With `TENSORBOARD_DIR` set, writes the files that `fixtures/check_tensorboard.py` compares to that directory.
#[cfg(feature = "tensorboard")]
#[test]
fn every_process_writes_its_own_event_file() {
    let scratch = tempfile::tempdir().unwrap();
    let directory =
        std::env::var_os("TENSORBOARD_DIR").map_or(scratch.path().to_owned(), std::path::PathBuf::from);
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let arguments = TrainingArguments { num_train_epochs: 20.0, ..arguments(&scratch.path().join("run")) };
    let trainer = || {
        let (events, csv) = (directory.join("events"), directory.join("log.csv"));
        let trainer = Trainer::new(arguments.clone(), mlp.parameters()).unwrap();
        trainer.sink(TensorBoardSink::new(&events).unwrap()).sink(CsvSink::append(&csv).unwrap())
    };
    let crash = |event: &Event| -> Result<(), BoxError> {
        if matches!(event, Event::Step(report) if report.global_step == 8) {
            Err("crash".into())
        } else {
            Ok(())
        }
    };
    trainer().sink(crash).fit(&mlp, &rows, Some(&evaluation)).unwrap_err();
    let _ = trainer().resume(Resume::Newest).fit(&mlp, &rows, Some(&evaluation)).unwrap();
    let files: Vec<_> = fs::read_dir(directory.join("events")).unwrap().collect();
    assert_eq!(files.len(), 2);
    for file in files {
        let path = file.unwrap().path();
        assert!(path.to_str().unwrap().contains("tfevents"), "{path:?}");
        assert!(fs::metadata(&path).unwrap().len() > 500);
    }
}

#[test]
fn a_sink_that_fails_stops_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let ((rows, evaluation), mlp) = (rows(), Mlp::new(5));
    let full = |_: &Event| -> Result<(), BoxError> { Err("no space left".into()) };
    let trainer = Trainer::new(arguments(directory.path()), mlp.parameters()).unwrap().sink(full);
    let error = trainer.fit(&mlp, &rows, Some(&evaluation)).unwrap_err();
    assert!(matches!(error, Error::Sink { .. }) && message(&error).ends_with(": no space left"), "{error}");
}
