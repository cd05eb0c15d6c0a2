//! Parameters, gradients, data and metrics of the caller; a trainer in a thread.

use super::*;

#[test]
fn a_trainer_can_be_sent_to_a_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<Trainer>();
    let directory = tempfile::tempdir().unwrap();
    let mlp = Mlp::new(5);
    let trainer = trainer(directory.path(), &mlp);
    let outcome = thread::spawn(move || fit(trainer, &mlp, None)).join().unwrap().unwrap();
    assert_eq!(outcome.state().global_step, 9);
}

#[test]
fn the_variables_of_a_var_map_are_sorted_by_name() {
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let names: Vec<String> = (0..20).map(|index| format!("layer.{:02}", (7 * index) % 20)).collect();
    for name in &names {
        builder.get_with_hints(2, name, Init::Const(0.5)).unwrap();
    }
    let parameters = Parameters::new(variables.data().lock().unwrap().clone()).unwrap();
    let sorted: Vec<String> = (0..20).map(|index| format!("layer.{index:02}")).collect();
    assert_eq!(parameters.iter().map(|(name, _)| name).collect::<Vec<_>>(), sorted);
    assert_eq!(parameters.element_count(), 40);
    assert!(matches!(
        Parameters::new(VarMap::new().data().lock().unwrap().clone()),
        Err(Error::NoParameters)
    ));

    // They are the map's own variables, not copies.
    parameters.get("layer.03").unwrap().set(&Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap()).unwrap();
    assert_eq!(values(&variables.data().lock().unwrap()["layer.03"]), [1.0, 2.0]);
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let variable = || candle_core::Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let error = Parameters::new(["a", "b", "a"].map(|name| (name.to_owned(), variable()))).unwrap_err();
    assert!(matches!(&error, Error::DuplicateParameter { name } if name == "a"), "{error}");
}

#[test]
fn gradients_can_be_built_replaced_and_iterated() {
    let tensor = |value: f32| Tensor::new(&[value, 0.0], &Device::Cpu).unwrap();
    let mut gradients = Gradients::from_iter([("b".to_owned(), tensor(3.0)), ("a".to_owned(), tensor(1.0))]);
    assert_eq!(values(&gradients.insert("a", tensor(4.0)).unwrap()), [1.0, 0.0]);
    let found: Vec<_> = gradients.iter().map(|(name, gradient)| (name, values(gradient)[0])).collect();
    assert_eq!((found, gradients.len(), gradients.is_empty()), (vec![("a", 4.0), ("b", 3.0)], 2, false));
    assert_eq!(gradients.norms().unwrap().global(), 5.0);
}

/// An `Mlp` on batches of rows, with a metric whose name is made at run time.
struct OnRows(Mlp);

impl OnRows {
    fn batch(rows: &[Row]) -> Batch {
        batch(rows, &(0..rows.len()).collect::<Vec<_>>())
    }
}

impl Task for OnRows {
    type Batch = Vec<Row>;

    fn train_loss(&self, rows: &Vec<Row>, context: &StepContext) -> Result<LossSum, BoxError> {
        self.0.train_loss(&Self::batch(rows), context)
    }

    fn eval_loss(&self, rows: &Vec<Row>) -> Result<LossTotal, BoxError> {
        self.0.eval_loss(&Self::batch(rows))
    }

    fn measure(&self, rows: &Vec<Row>) -> Result<Measured, BoxError> {
        let loss = self.eval_loss(rows)?;
        let metric = Metric::new(format!("loss_below_{}", 2), Unit::Share, Direction::HigherIsBetter);
        let ratio = Ratio { numerator: f64::from(u8::from(loss.mean() < 2.0)), denominator: 1.0 };
        Ok(Measured::new(loss).with(metric, ratio))
    }

    fn num_samples(&self, rows: &Vec<Row>) -> usize {
        rows.len()
    }
}

#[test]
fn samples_in_memory_are_shuffled_by_seed_and_epoch() {
    let plain = InMemory::new((0..23).collect::<Vec<usize>>(), 4).unwrap();
    let order = |source: &InMemory<usize>, epoch| -> Vec<usize> {
        source.epoch(epoch, 0).flat_map(|batch| batch.unwrap()).collect()
    };
    assert_eq!((order(&plain, 0), plain.batches_per_epoch()), ((0..23).collect(), 6));
    let shuffled = plain.clone().shuffled(7);
    for epoch in 0..3 {
        assert_eq!(order(&shuffled, epoch), trainer_core::epoch_order(7, epoch, 23));
        for first in 0..=6 {
            let rest: Vec<_> = shuffled.epoch(epoch, first).flat_map(|batch| batch.unwrap()).collect();
            assert_eq!(rest, order(&shuffled, epoch)[(4 * first).min(23)..], "from batch {first}");
        }
    }
    assert_ne!(order(&plain.clone().shuffled(8), 0), order(&shuffled, 0));
    assert_eq!(shuffled.epoch(0, 7).count(), 0);
    let error = InMemory::new(vec![1], 0).unwrap_err();
    assert!(error.to_string().contains("batch_size must be at least 1"), "{error}");
    assert_eq!(InMemory::new(Vec::<u8>::new(), 3).unwrap().batches_per_epoch(), 0);
}

#[test]
fn a_run_on_samples_in_memory_is_resumed_exactly() {
    let train = InMemory::new(random_rows(1, 21), 2).unwrap().shuffled(9);
    let evaluation = InMemory::new(random_rows(2, 7), 4).unwrap();
    let run = |output_dir: &Path, stop_in: usize| {
        let task = OnRows(Mlp::with_dropout(5, 0.4));
        let (stopper, stop) = stop_in_step(stop_in);
        // The same call starts and continues a run.
        let trainer =
            trainer(output_dir, &task.0).resume(Resume::NewestIfAny).sink(stopper).stop_signal(stop);
        let outcome = trainer.fit(&task, &train, Some(&evaluation)).unwrap();
        (untimed(outcome.state()), task.0.bits(), outcome)
    };
    let whole = tempfile::tempdir().unwrap();
    let uninterrupted = run(whole.path(), usize::MAX);
    let logged = uninterrupted.0.iter().find_map(|entry| match entry {
        LogEntry::Evaluation { metrics, .. } => Some(metrics.contains_key("eval_loss_below_2")),
        _ => None,
    });
    assert_eq!(logged, Some(true));
    for step in 1..9 {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(run(directory.path(), step).2, Outcome::Interrupted { .. }));
        let resumed = run(directory.path(), usize::MAX);
        assert_eq!(
            (&resumed.0, &resumed.1),
            (&uninterrupted.0, &uninterrupted.1),
            "stopped after step {step}"
        );
    }
}

#[test]
fn without_an_undamaged_checkpoint_newest_if_any_is_an_error() {
    let (directory, mlp) = (tempfile::tempdir().unwrap(), Mlp::new(5));
    let first = Trainer::new(
        TrainingArguments {
            eval_strategy: IntervalStrategy::No,
            max_steps: Some(3),
            ..arguments(directory.path())
        },
        mlp.parameters(),
    );
    let _finished = fit(first.unwrap(), &mlp, None).unwrap();
    std::fs::remove_file(directory.path().join("checkpoint-3/complete.json")).unwrap();
    let again = trainer(directory.path(), &mlp).resume(Resume::NewestIfAny);
    let error = fit(again, &mlp, None).unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }), "{error}");
    assert!(directory.path().join("checkpoint-3").is_dir());
}

#[test]
fn a_loss_sum_is_read_as_a_total() {
    let task = Mlp::new(5);
    let rows = random_rows(2, 7);
    let one = vec![batch(&rows, &[0, 1, 2, 3, 4, 5, 6])];
    let total = task.train_loss(&one[0], &StepContext::default()).unwrap().total().unwrap();
    assert_eq!(total, evaluate(&task, &one).unwrap().loss);
}
