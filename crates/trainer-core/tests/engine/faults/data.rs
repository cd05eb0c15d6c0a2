//! Data that is missing or fails.

use super::*;

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

struct Broken {
    error: bool,
}

impl BatchSource for Broken {
    type Batch = Batch;

    fn batches_per_epoch(&self) -> usize {
        8
    }

    fn epoch(&self, _epoch: usize, _first_batch: usize) -> Batches<'_, Batch> {
        let good = (0..5).map(|number| Ok(crate::common::batch(&random_rows(1, 8), &[number])));
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
