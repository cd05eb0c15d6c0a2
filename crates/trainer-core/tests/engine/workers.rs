//! Several workers train one model.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use super::common::{Mlp, Row, Rows, arguments, batch, random_rows, stop_in_step, values};
use trainer_core::{
    BoxError, Gradients, IntervalStrategy, Outcome, Trainer, TrainerState, TrainingArguments, Workers,
};

/// Workers as threads of one process. Each sums all contributions in the same order, so the sums are bit-identical.
#[derive(Clone)]
struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

/// One worker's summands.
type Contribution = (Gradients, Vec<f64>);

struct Shared {
    contributions: Mutex<Vec<Option<Contribution>>>,
    all: Barrier,
}

impl Threads {
    fn new(count: usize) -> Vec<Self> {
        let contributions = Mutex::new(vec![None; count]);
        let shared = Arc::new(Shared { contributions, all: Barrier::new(count) });
        (0..count).map(|rank| Self { rank, shared: shared.clone() }).collect()
    }
}

impl Workers for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.shared.contributions.lock().unwrap().len()
    }

    fn sum(&self, gradients: &mut Gradients, numbers: &mut [f64]) -> Result<(), BoxError> {
        self.shared.contributions.lock().unwrap()[self.rank] = Some((gradients.clone(), numbers.to_vec()));
        self.shared.all.wait();
        *gradients = Gradients::new();
        numbers.fill(0.0);
        for (others, theirs) in self.shared.contributions.lock().unwrap().iter().flatten() {
            gradients.add(others)?;
            numbers.iter_mut().zip(theirs).for_each(|(sum, number)| *sum += number);
        }
        self.shared.all.wait();
        Ok(())
    }
}

const SAMPLES: usize = 8;

/// Trains on the same rows every epoch; each batch is divided equally among the workers.
fn train(rows: &[Row], workers: usize, stop_in: usize) -> Vec<(TrainerState, Vec<f32>)> {
    let share = SAMPLES / workers;
    let work = |worker: Threads| {
        let starts = (0..rows.len()).step_by(SAMPLES).map(|first| first + worker.rank * share);
        let batches: Vec<_> =
            starts.map(|first| batch(rows, &(first..first + share).collect::<Vec<_>>())).collect();
        let directory = tempfile::tempdir().unwrap();
        let arguments = TrainingArguments {
            gradient_accumulation_steps: 2,
            save_strategy: IntervalStrategy::No,
            ..arguments(directory.path())
        };
        let mlp = Mlp::new(5);
        let evaluation = Rows { rows: random_rows(2, 6), batch_size: 3, shuffle: None };
        // Only the last worker gets the signal.
        let (stopper, stop) =
            stop_in_step(if worker.rank + 1 == worker.count() { stop_in } else { usize::MAX });
        let trainer = Trainer::new(arguments, mlp.parameters()).unwrap().sink(stopper).stop_signal(stop);
        let trainer = if workers > 1 { trainer.workers(worker) } else { trainer };
        let outcome = trainer.fit(&mlp, &batches, Some(&evaluation)).unwrap();
        assert_eq!(matches!(outcome, Outcome::Interrupted { .. }), stop_in != usize::MAX);
        (outcome.state().clone(), mlp.variables.values().flat_map(|variable| values(variable)).collect())
    };
    in_threads(workers, work)
}

/// The results of all workers, by rank.
fn in_threads<R: Send>(workers: usize, work: impl Fn(Threads) -> R + Sync) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> =
            Threads::new(workers).into_iter().map(|worker| scope.spawn(move || work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Rows such that one worker's share has no targets at all.
fn rows() -> Vec<Row> {
    let mut rows = random_rows(1, 4 * SAMPLES);
    rows[4..8].iter_mut().for_each(|row| row.labels.fill(-100));
    rows[12..16].iter_mut().for_each(|row| row.labels.fill(-100));
    rows
}

#[test]
fn workers_on_parts_of_a_batch_equal_one_worker_on_the_whole() {
    let alone = &train(&rows(), 1, usize::MAX)[0];
    for count in [2, 4] {
        let together = train(&rows(), count, usize::MAX);
        let bits = |parameters: &[f32]| parameters.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for (state, parameters) in &together {
            assert_eq!(bits(parameters), bits(&together[0].1), "workers are equal");
            assert_eq!(state.global_step, alone.0.global_step);
            for (got, expected) in parameters.iter().zip(&alone.1) {
                assert!((got - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{got} is not {expected}");
            }
        }
    }
}

#[test]
fn every_worker_draws_its_own_dropout_masks() {
    // All train on the same rows. With equal masks, two workers would equal one.
    let rows = random_rows(1, 4);
    let train = |workers: usize| {
        in_threads(workers, |worker| {
            let directory = tempfile::tempdir().unwrap();
            let arguments = TrainingArguments {
                eval_strategy: IntervalStrategy::No,
                save_strategy: IntervalStrategy::No,
                load_best_model_at_end: false,
                ..arguments(directory.path())
            };
            let mlp = Mlp::with_dropout(5, 0.5);
            let trainer = Trainer::new(arguments, mlp.parameters()).unwrap();
            let trainer = if workers > 1 { trainer.workers(worker) } else { trainer };
            let _finished = trainer.fit(&mlp, &vec![batch(&rows, &[0, 1, 2, 3])], None).unwrap();
            mlp.variables.values().flat_map(|variable| values(variable)).collect::<Vec<_>>()
        })
    };
    let (alone, together) = (train(1), train(2));
    assert_eq!(together[0], together[1], "workers are equal");
    let apart = alone[0].iter().zip(&together[0]).any(|(alone, together)| (alone - together).abs() > 1e-3);
    assert!(apart, "{alone:?}, {together:?}");
}

#[test]
fn a_signal_to_one_worker_stops_all_after_the_same_step() {
    let together = train(&rows(), 2, 3);
    // The last worker gets it in step 3, and all agree in step 4.
    assert_eq!(together.iter().map(|(state, _)| state.global_step).collect::<Vec<_>>(), [4, 4]);
}
