use serde::Serialize;

/// The plotted data: a run's losses, in nats per target token.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct History {
    /// In the order of their steps. Values that are not finite are not drawn.
    pub entries: Vec<LogEntry>,
    /// The step of the best checkpoint, if there was an evaluation.
    pub best_step: Option<usize>,
}

/// One line of the run's log: the losses known at a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LogEntry {
    /// Optimizer steps so far, from 1.
    pub step: usize,
    /// Epochs so far, with a fraction.
    pub epoch: f64,
    /// The training loss.
    pub loss: Option<f64>,
    /// The validation loss.
    pub eval_loss: Option<f64>,
    /// The learning rate of the step.
    pub learning_rate: Option<f64>,
    /// The norm of the step's gradients, before clipping.
    pub grad_norm: Option<f64>,
}

impl History {
    /// Epoch and training loss of the entries that have one.
    pub fn training(&self) -> Vec<(f64, f64)> {
        self.curve(|entry| entry.loss)
    }

    /// Epoch and validation loss of the entries that have one.
    pub fn validation(&self) -> Vec<(f64, f64)> {
        self.curve(|entry| entry.eval_loss)
    }

    /// Epoch and learning rate of the entries that have one.
    pub fn learning_rates(&self) -> Vec<(f64, f64)> {
        self.curve(|entry| entry.learning_rate)
    }

    /// Epoch and gradient norm of the entries that have one.
    pub fn grad_norms(&self) -> Vec<(f64, f64)> {
        self.curve(|entry| entry.grad_norm)
    }

    /// Epoch and validation loss of the best checkpoint.
    pub fn best(&self) -> Option<(f64, f64)> {
        let is_best = |entry: &&LogEntry| Some(entry.step) == self.best_step && entry.eval_loss.is_some();
        self.entries.iter().find(is_best).and_then(|entry| Some((entry.epoch, entry.eval_loss?)))
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.training().is_empty() && self.validation().is_empty()
    }

    fn curve(&self, value: impl Fn(&LogEntry) -> Option<f64>) -> Vec<(f64, f64)> {
        let points = self.entries.iter().filter_map(|entry| Some((entry.epoch, value(entry)?)));
        points.filter(|(epoch, value)| epoch.is_finite() && value.is_finite()).collect()
    }
}
