//! Several workers train one model: with the bits of one worker, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use super::common::{Batch, Mlp, Rows, arguments, message, random_rows, recorder, stop_in_step, untimed};
use trainer_core::{
    BatchSource, Batches, BoxError, Error, Event, IntervalStrategy, LogEntry, LossSum, LossTotal, OnNan,
    Outcome, Resume, StepContext, Task, ThreadWorkers, Trainer, TrainerState, TrainingArguments, Warning,
    Workers, evaluate, evaluate_together,
};

/// The results of all workers, by rank.
fn in_threads<R: Send>(count: usize, work: impl Fn(Arc<ThreadWorkers>) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let workers = ThreadWorkers::new(count).into_iter();
        let threads: Vec<_> = workers.map(|worker| scope.spawn(move || work(Arc::new(worker)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// 34 rows in batches of 3: the last batch of an epoch is short, and so is its last step of 5 batches. Some rows and one whole
/// batch have no targets.
fn training_rows() -> Rows {
    let mut rows = random_rows(1, 34);
    rows.iter_mut().step_by(4).for_each(|row| row.labels.fill(-100));
    rows[6..9].iter_mut().for_each(|row| row.labels.fill(-100));
    Rows { rows, batch_size: 3, shuffle: Some(3) }
}

fn evaluation_rows() -> Rows {
    Rows { rows: random_rows(2, 17), batch_size: 3, shuffle: None }
}

fn arguments_for(directory: &Path, fuse: usize) -> TrainingArguments {
    TrainingArguments {
        gradient_accumulation_steps: 5,
        fused_micro_batches: fuse,
        eval_strategy: IntervalStrategy::Steps,
        eval_steps: 2,
        save_strategy: IntervalStrategy::Steps,
        save_steps: 2,
        save_total_limit: Some(2),
        ..arguments(directory)
    }
}

/// The results of a run: every bit of the parameters, and the log without times.
type Bits = (BTreeMap<String, Vec<u32>>, Vec<LogEntry>);

fn bits(mlp: &Mlp, state: &TrainerState) -> Bits {
    (mlp.bits(), untimed(state))
}

/// Trains with dropout. Only the last worker gets the signal to stop in step `stop_in`.
fn train(
    count: usize,
    directory: &Path,
    fuse: usize,
    stop_in: Option<usize>,
    resume: bool,
) -> Vec<(usize, Bits)> {
    in_threads(count, |worker| {
        let mlp = Mlp::with_dropout(5, 0.3);
        let is_last = worker.rank() + 1 == count;
        let (stopper, stop) = stop_in_step(stop_in.filter(|_| is_last).unwrap_or(usize::MAX));
        let mut trainer = Trainer::new(arguments_for(directory, fuse), mlp.parameters()).unwrap();
        if resume {
            trainer = trainer.resume(Resume::Newest);
        }
        let trainer = trainer.sink(stopper).stop_signal(stop).workers(worker);
        let outcome = trainer.fit(&mlp, &training_rows(), Some(&evaluation_rows())).unwrap();
        assert_eq!(matches!(outcome, Outcome::Interrupted { .. }), stop_in.is_some());
        (outcome.state().global_step, bits(&mlp, outcome.state()))
    })
}

/// The same without workers, as an engine without this feature does.
fn train_alone(directory: &Path, fuse: usize) -> (usize, Bits) {
    let mlp = Mlp::with_dropout(5, 0.3);
    let trainer = Trainer::new(arguments_for(directory, fuse), mlp.parameters()).unwrap();
    let outcome = trainer.fit(&mlp, &training_rows(), Some(&evaluation_rows())).unwrap();
    (outcome.state().global_step, bits(&mlp, outcome.state()))
}

/// The names of all files of all checkpoints, with the content of those that have no times in them.
fn checkpoint_files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for checkpoint in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(entries) = fs::read_dir(&checkpoint) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let is_exact = path.extension().is_some_and(|extension| extension == "safetensors");
            let content = if is_exact { fs::read(&path).unwrap() } else { Vec::new() };
            files.insert(path.strip_prefix(directory).unwrap().display().to_string(), content);
        }
    }
    files
}

#[test]
fn any_number_of_workers_trains_the_same_bits() {
    for fuse in [1, 2, 5] {
        let directory = tempfile::tempdir().unwrap();
        let alone = train_alone(directory.path(), fuse);
        let files = checkpoint_files(directory.path());
        assert!(files.len() > 8, "{:?}", files.keys());
        for count in [1, 2, 3, 4, 6] {
            let directory = tempfile::tempdir().unwrap();
            for (rank, worker) in train(count, directory.path(), fuse, None, false).into_iter().enumerate() {
                assert!(worker == alone, "worker {rank} of {count}, {fuse} fused");
            }
            assert!(checkpoint_files(directory.path()) == files, "{count} workers, {fuse} fused");
        }
    }
}

#[test]
fn a_run_is_resumed_by_another_number_of_workers() {
    let directory = tempfile::tempdir().unwrap();
    let whole = train_alone(directory.path(), 2);
    for (first, then) in [(2, 1), (1, 3), (4, 2), (3, 6)] {
        let directory = tempfile::tempdir().unwrap();
        let stopped = train(first, directory.path(), 2, Some(3), false);
        assert!(stopped.iter().all(|(step, _)| *step == 3), "all stop after the step of the signal");
        for worker in train(then, directory.path(), 2, None, true) {
            assert!(worker == whole, "{first} workers, then {then}");
        }
    }
}

#[test]
fn evaluations_have_the_same_bits_with_any_number_of_workers() {
    let (mlp, rows) = (Mlp::new(5), evaluation_rows());
    let alone = evaluate(&mlp, &rows).unwrap();
    for count in [1, 2, 4, 7] {
        for together in
            in_threads(count, |worker| evaluate_together(&Mlp::new(5), &rows, worker.as_ref()).unwrap())
        {
            assert_eq!((together.loss, together.samples), (alone.loss, alone.samples), "{count} workers");
        }
    }
}

/// A source that knows the sizes of its batches, and records which ones are loaded.
struct Counted(Rows, Mutex<Vec<usize>>);

impl BatchSource for Counted {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        self.0.batches_per_epoch()
    }

    fn epoch(&self, epoch: usize, first_batch: usize) -> Batches<'_, Batch> {
        self.select(epoch, (first_batch..self.batches_per_epoch()).collect())
    }

    fn batch_samples(&self, batch: usize) -> Option<usize> {
        Some(self.0.batch_size.min(self.0.rows.len() - batch * self.0.batch_size))
    }

    fn select(&self, epoch: usize, batches: Vec<usize>) -> Batches<'_, Batch> {
        Box::new(batches.into_iter().map(move |batch| {
            self.1.lock().unwrap().push(epoch * self.batches_per_epoch() + batch);
            self.0.epoch(epoch, batch).next().unwrap()
        }))
    }
}

#[test]
fn each_batch_is_loaded_by_one_worker_and_the_numbers_do_not_depend_on_that() {
    let directory = tempfile::tempdir().unwrap();
    let alone = train_alone(directory.path(), 2);
    for count in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        let source = Counted(training_rows(), Mutex::default());
        let together = in_threads(count, |worker| {
            let mlp = Mlp::with_dropout(5, 0.3);
            let trainer = Trainer::new(arguments_for(directory.path(), 2), mlp.parameters()).unwrap();
            let outcome = trainer.workers(worker).fit(&mlp, &source, Some(&evaluation_rows())).unwrap();
            (outcome.state().global_step, bits(&mlp, outcome.state()))
        });
        together.iter().for_each(|worker| assert!(*worker == alone, "{count} workers"));
        let mut loaded = source.1.into_inner().unwrap();
        loaded.sort_unstable();
        assert_eq!(loaded, (0..3 * 12).collect::<Vec<_>>(), "3 epochs of 12 batches, each once");
    }
}

/// A network that fails or panics on a batch with this row, or whose loss is not a number there.
struct Faulty {
    mlp: Mlp,
    row: usize,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Error,
    Panic,
    Nan,
}

impl Task for Faulty {
    type Batch = Batch;

    fn train_loss(&self, batch: &Batch, context: &StepContext) -> Result<LossSum, BoxError> {
        let LossSum { sum, targets } = self.mlp.train_loss(batch, context)?;
        if !batch.numbers.contains(&self.row) {
            return Ok(LossSum { sum, targets });
        }
        match self.fault {
            Fault::Error => Err("the picture is damaged".into()),
            Fault::Panic => panic!("the picture is damaged"),
            Fault::Nan => Ok(LossSum { sum: (sum * f64::NAN)?, targets }),
        }
    }

    fn merge(&self, batches: &[Batch]) -> Result<Batch, BoxError> {
        self.mlp.merge(batches)
    }

    fn eval_loss(&self, batch: &Batch) -> Result<LossTotal, BoxError> {
        self.mlp.eval_loss(batch)
    }

    fn num_samples(&self, batch: &Batch) -> usize {
        self.mlp.num_samples(batch)
    }

    fn describe(&self, batch: &Batch) -> String {
        self.mlp.describe(batch)
    }
}

/// Trains without shuffling. Row 10 is in the last batch of four of the first step, so that the last of two, three or four
/// workers has it.
fn train_faulty(
    worker: Arc<ThreadWorkers>,
    directory: &Path,
    fault: Fault,
    on_nan: OnNan,
) -> (trainer_core::Result<Outcome>, BTreeMap<String, Vec<u32>>, Vec<Event>) {
    let faulty = Faulty { mlp: Mlp::new(5), row: 10, fault };
    let rows = Rows { shuffle: None, ..training_rows() };
    let (sink, events) = recorder();
    let arguments =
        TrainingArguments { on_nan, gradient_accumulation_steps: 4, ..arguments_for(directory, 1) };
    let trainer = Trainer::new(arguments, faulty.mlp.parameters()).unwrap().sink(sink).workers(worker);
    let outcome = trainer.fit(&faulty, &rows, Some(&evaluation_rows()));
    let events = events.lock().unwrap().clone();
    (outcome, faulty.mlp.bits(), events)
}

#[test]
fn a_worker_that_fails_ends_the_others_with_its_name_and_reason() {
    for count in [2, 4] {
        let directory = tempfile::tempdir().unwrap();
        let outcomes =
            in_threads(count, |worker| train_faulty(worker, directory.path(), Fault::Error, OnNan::Stop).0);
        let messages: Vec<String> =
            outcomes.into_iter().map(|outcome| message(&outcome.unwrap_err())).collect();
        let (last, others) = messages.split_last().unwrap();
        assert_eq!(last, "step 1: the task failed (batch: rows 9, 10, 11): the picture is damaged");
        for other in others {
            let expected = format!("worker {} has left: {last}", count - 1);
            assert!(other.contains(&expected) && other.contains("resumes the run"), "{other}");
        }
    }
}

#[test]
fn a_worker_that_panics_ends_the_others_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = ThreadWorkers::new(3)
            .into_iter()
            .map(|worker| {
                scope.spawn(|| train_faulty(Arc::new(worker), directory.path(), Fault::Panic, OnNan::Stop).0)
            })
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    assert!(outcomes[2].is_err(), "the panic reaches the thread of worker 2");
    for outcome in outcomes.into_iter().take(2) {
        let message = message(&outcome.unwrap().unwrap_err());
        assert!(message.contains("worker 2 has left: its thread panicked"), "{message}");
    }
}

#[test]
fn a_sink_that_fails_on_one_worker_ends_all() {
    let directory = tempfile::tempdir().unwrap();
    let messages = in_threads(3, |worker| {
        let mlp = Mlp::new(5);
        let rank = worker.rank();
        let sink = move |event: &Event| -> Result<(), BoxError> {
            let is_third = matches!(event, Event::Step(report) if report.global_step == 3);
            if rank == 0 && is_third { Err("the log's disk is full".into()) } else { Ok(()) }
        };
        let trainer = Trainer::new(arguments_for(directory.path(), 1), mlp.parameters()).unwrap();
        let trainer = trainer.sink(sink).workers(worker);
        message(&trainer.fit(&mlp, &training_rows(), Some(&evaluation_rows())).unwrap_err())
    });
    assert!(
        messages[1].contains("worker 0 has left") && messages[1].contains("disk is full"),
        "{messages:?}"
    );
    assert_eq!(messages[1], messages[2]);
}

#[test]
fn all_workers_treat_a_loss_that_is_not_a_number_alike() {
    let run = |count, on_nan| {
        let directory = tempfile::tempdir().unwrap();
        in_threads(count, |worker| train_faulty(worker, directory.path(), Fault::Nan, on_nan))
    };
    let alone = run(1, OnNan::Stop).remove(0);
    let stopped = alone.0.unwrap_err().to_string();
    assert!(
        stopped.contains("loss of micro-batch 4 of 4 is NaN") && stopped.contains("rows 9, 10, 11"),
        "{stopped}"
    );
    let skipped = |events: &[Event]| -> Vec<String> {
        let is_skipped = |event: &&Event| matches!(event, Event::Warning(Warning::StepSkipped { .. }));
        events.iter().filter(is_skipped).map(|event| format!("{event:?}")).collect()
    };
    let (outcome, parameters, events) = run(1, OnNan::Skip).remove(0);
    assert_eq!((skipped(&events).len(), untimed(outcome.unwrap().state()).len()), (3, 12));
    for count in [2, 4] {
        for worker in run(count, OnNan::Stop) {
            assert_eq!(worker.0.unwrap_err().to_string(), stopped, "{count} workers");
        }
        for worker in run(count, OnNan::Skip) {
            assert_eq!(skipped(&worker.2), skipped(&events), "{count} workers");
            assert!(worker.1 == parameters, "{count} workers");
        }
    }
}

#[test]
fn only_worker_0_writes_files() {
    let directory = tempfile::tempdir().unwrap();
    let folder = |rank: usize| directory.path().join(format!("of-{rank}"));
    in_threads(3, |worker| {
        let mlp = Mlp::new(5);
        let trainer = Trainer::new(arguments_for(&folder(worker.rank()), 1), mlp.parameters()).unwrap();
        let outcome = trainer.workers(worker).fit(&mlp, &training_rows(), Some(&evaluation_rows()));
        assert!(matches!(outcome.unwrap(), Outcome::Finished { .. }));
    });
    assert!(folder(0).join("trainer_state.json").is_file());
    assert!(!folder(1).exists() && !folder(2).exists());
}

#[test]
fn workers_that_were_started_with_different_runs_are_refused() {
    let errors = |change: fn(&mut TrainingArguments), seed: u64| -> Vec<Error> {
        let directory = tempfile::tempdir().unwrap();
        in_threads(2, |worker| {
            let mut arguments = arguments_for(directory.path(), 1);
            let mut mlp = Mlp::new(5);
            if worker.rank() == 1 {
                change(&mut arguments);
                mlp = Mlp::new(seed);
            }
            let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().workers(worker);
            trainer.fit(&mlp, &training_rows(), Some(&evaluation_rows())).unwrap_err()
        })
    };
    for error in errors(|arguments| arguments.learning_rate = 0.5, 5) {
        let expected = "worker 1 has another run than worker 0: learning_rate is `0.05` on worker 0 and `0.5` on worker 1";
        assert_eq!(error.to_string(), expected);
    }
    for error in errors(|_| {}, 6) {
        assert!(matches!(error, Error::UnequalWorkers { step: 0, rank: 1 }), "{error:?}");
    }
}

#[test]
fn a_time_limit_ends_all_workers_after_the_same_step() {
    let directory = tempfile::tempdir().unwrap();
    let rows = Rows { rows: random_rows(1, 30), batch_size: 6, shuffle: None };
    let steps: BTreeSet<usize> = in_threads(3, |worker| {
        let mlp = Mlp::new(5);
        let arguments = TrainingArguments {
            num_train_epochs: 1e6,
            max_seconds: Some(0.2),
            logging_steps: 1_000_000,
            eval_steps: 1_000_000,
            save_steps: 1_000_000,
            ..arguments_for(directory.path(), 1)
        };
        let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().workers(worker);
        let outcome = trainer.fit(&mlp, &rows, Some(&evaluation_rows())).unwrap();
        outcome.state().global_step
    })
    .into_iter()
    .collect();
    assert_eq!(steps.len(), 1, "{steps:?}");
}
