use std::ops::Range;

use crate::{Error, IntervalStrategy, Result, TrainingArguments};

/// The schedule of a run: which batches form each optimizer step, and after which steps the run evaluates and
/// saves. Steps are counted as in transformers' Trainer.
///
/// An epoch of `n` batches has `ceil(n / k)` steps of `k` batches; its last step takes the remaining ones, so that none is
/// lost and none moves to the next epoch. The number of completed steps alone therefore determines the position in the data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) batches_per_epoch: usize,
    pub(crate) steps_per_epoch: usize,
    pub(crate) max_steps: usize,
    pub(crate) num_train_epochs: usize,
    accumulation: usize,
    eval: (IntervalStrategy, usize),
    save: (IntervalStrategy, usize),
    logging_steps: usize,
}

impl Plan {
    pub(crate) fn new(arguments: &TrainingArguments, batches_per_epoch: usize) -> Result<Self> {
        if batches_per_epoch == 0 {
            return Err(Error::NoBatches { role: "training" });
        }
        let accumulation = arguments.gradient_accumulation_steps;
        let steps_per_epoch = batches_per_epoch.div_ceil(accumulation);
        let max_steps = match arguments.max_steps {
            Some(steps) => steps,
            None => (arguments.num_train_epochs * steps_per_epoch as f64).ceil() as usize,
        };
        Ok(Self {
            batches_per_epoch,
            steps_per_epoch,
            max_steps,
            num_train_epochs: max_steps.div_ceil(steps_per_epoch),
            accumulation,
            eval: (arguments.eval_strategy, arguments.eval_steps),
            save: (arguments.save_strategy, arguments.save_steps),
            logging_steps: arguments.logging_steps,
        })
    }

    /// The epoch (from 0) of the step that follows `done` completed steps.
    pub(crate) fn epoch(&self, done: usize) -> usize {
        done / self.steps_per_epoch
    }

    /// Index, within its epoch, of the first batch of the step that follows `done` completed steps.
    pub(crate) fn first_batch(&self, done: usize) -> usize {
        done % self.steps_per_epoch * self.accumulation
    }

    /// Number of batches in the step that follows `done` completed steps.
    pub(crate) fn batches_of_step(&self, done: usize) -> usize {
        self.accumulation.min(self.batches_per_epoch - self.first_batch(done))
    }

    /// Indices (from 0) of the steps that remain in the current epoch after `done` completed steps.
    pub(crate) fn rest_of_epoch(&self, done: usize) -> Range<usize> {
        let end = (self.epoch(done) + 1) * self.steps_per_epoch;
        done..end.min(self.max_steps)
    }

    /// Number of completed epochs, as a fraction, after `done` completed steps.
    pub(crate) fn epochs_after(&self, done: usize) -> f64 {
        self.epoch(done) as f64 + self.first_batch(done) as f64 / self.batches_per_epoch as f64
    }

    pub(crate) fn logs_after(&self, done: usize) -> bool {
        done.is_multiple_of(self.logging_steps)
    }

    /// Whether to evaluate after `done` completed steps. `last`: the run ends here, possibly before `max_steps`.
    pub(crate) fn evaluates_after(&self, done: usize, last: bool) -> bool {
        self.is_due(self.eval, done, last)
    }

    pub(crate) fn saves_after(&self, done: usize, last: bool) -> bool {
        self.is_due(self.save, done, last)
    }

    fn is_due(&self, (strategy, every): (IntervalStrategy, usize), done: usize, last: bool) -> bool {
        let interval = match strategy {
            IntervalStrategy::No => return false,
            IntervalStrategy::Steps => every,
            IntervalStrategy::Epoch => self.steps_per_epoch,
        };
        last || done == self.max_steps || done.is_multiple_of(interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(batches: usize, accumulation: usize, epochs: f64, max_steps: Option<usize>) -> Plan {
        let arguments = TrainingArguments {
            gradient_accumulation_steps: accumulation,
            num_train_epochs: epochs,
            max_steps,
            ..Default::default()
        };
        Plan::new(&arguments, batches).unwrap()
    }

    #[test]
    fn accumulation_and_epochs_determine_the_number_of_steps() {
        // 560 training samples in batches of 2, 4 batches per step, 15 epochs.
        let plan = plan(280, 4, 15.0, None);
        assert_eq!((plan.steps_per_epoch, plan.max_steps, plan.num_train_epochs), (70, 1050, 15));
    }

    #[test]
    fn the_last_step_of_an_epoch_takes_the_remaining_batches() {
        let plan = plan(10, 4, 2.0, None);
        assert_eq!((plan.steps_per_epoch, plan.max_steps), (3, 6));
        let steps: Vec<_> =
            (0..6).map(|s| (plan.epoch(s), plan.first_batch(s), plan.batches_of_step(s))).collect();
        assert_eq!(steps, [(0, 0, 4), (0, 4, 4), (0, 8, 2), (1, 0, 4), (1, 4, 4), (1, 8, 2)]);
        assert_eq!((plan.rest_of_epoch(0), plan.rest_of_epoch(4), plan.rest_of_epoch(6)), (0..3, 4..6, 6..6));
        assert_eq!([1, 2, 3, 4].map(|done| plan.epochs_after(done)), [0.4, 0.8, 1.0, 1.4]);
    }

    #[test]
    fn max_steps_overrides_epochs_and_may_end_within_one() {
        let plan = plan(10, 4, 2.0, Some(4));
        assert_eq!((plan.max_steps, plan.num_train_epochs), (4, 2));
        assert_eq!(plan.rest_of_epoch(3), 3..4);
    }

    #[test]
    fn fractional_epochs_round_steps_up() {
        assert_eq!(plan(10, 4, 1.5, None).max_steps, 5);
    }

    #[test]
    fn evaluation_and_saving_also_happen_after_the_last_step() {
        let mut plan = plan(10, 4, 2.0, Some(5));
        plan.eval = (IntervalStrategy::Steps, 2);
        plan.save = (IntervalStrategy::Epoch, 1);
        let due = |is_due: &dyn Fn(usize) -> bool| (1..=5).filter(|&done| is_due(done)).collect::<Vec<_>>();
        assert_eq!(due(&|done| plan.evaluates_after(done, false)), [2, 4, 5]);
        assert_eq!(due(&|done| plan.saves_after(done, false)), [3, 5]);
        assert_eq!(due(&|done| plan.saves_after(done, done == 4)), [3, 4, 5]);
        plan.save = (IntervalStrategy::No, 1);
        assert_eq!(due(&|done| plan.saves_after(done, true)), [0; 0]);
    }

    #[test]
    fn no_batches_is_an_error() {
        assert!(matches!(
            Plan::new(&TrainingArguments::default(), 0),
            Err(Error::NoBatches { role: "training" })
        ));
    }
}
