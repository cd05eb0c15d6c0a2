use crate::TrainingArguments;

/// Ends a run whose evaluations no longer improve, as transformers' `EarlyStoppingCallback` does.
///
/// It has no state: the number of evaluations in a row without improvement is an argument, and is saved in
/// checkpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EarlyStopping {
    patience: Option<usize>,
    threshold: f64,
}

impl EarlyStopping {
    pub(crate) fn new(arguments: &TrainingArguments) -> Self {
        Self { patience: arguments.early_stopping_patience, threshold: arguments.early_stopping_threshold }
    }

    /// Updates the number of evaluations in a row without improvement. `improvement` is how much better than the best the
    /// newest one is; `None` for the first. NaN counts as no improvement.
    pub(crate) fn count(&self, before: usize, improvement: Option<f64>) -> usize {
        match improvement {
            None => 0,
            Some(improvement) if improvement > self.threshold => 0,
            Some(_) => before + 1,
        }
    }

    pub(crate) fn is_due(&self, count: usize) -> bool {
        self.patience.is_some_and(|patience| count >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped_after(patience: Option<usize>, threshold: f64, losses: &[f64]) -> Option<usize> {
        let stopping = EarlyStopping { patience, threshold };
        let (mut count, mut best) = (0, None::<f64>);
        for (index, loss) in losses.iter().enumerate() {
            count = stopping.count(count, best.map(|best| best - loss));
            best = Some(best.map_or(*loss, |best| best.min(*loss)));
            if stopping.is_due(count) {
                return Some(index);
            }
        }
        None
    }

    #[test]
    fn patience_counts_evaluations_in_a_row() {
        assert_eq!(stopped_after(Some(2), 0.0, &[3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.5]), Some(5));
        assert_eq!(stopped_after(None, 0.0, &[1.0, 2.0, 3.0, 4.0]), None);
    }

    #[test]
    fn improvements_within_the_threshold_do_not_count() {
        assert_eq!(stopped_after(Some(2), 0.1, &[1.0, 0.95, 0.9, 0.5]), Some(2));
        assert_eq!(stopped_after(Some(2), 0.01, &[1.0, 0.95, 0.9, 0.5]), None);
    }

    #[test]
    fn nan_is_no_improvement() {
        assert_eq!(stopped_after(Some(2), 0.0, &[1.0, f64::NAN, f64::NAN]), Some(2));
    }
}
