use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::LossTotal;

/// A metric: its name, its unit, and whether higher or lower is better.
///
/// ```
/// use trainer_core::{Direction, Metric, Unit};
///
/// let recall = |k: usize| Metric::new(format!("recall_at_{k}"), Unit::Share, Direction::HigherIsBetter);
/// assert_eq!(recall(5).name, "recall_at_5");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metric {
    /// Name in snake case, without a prefix such as `eval_`.
    pub name: Cow<'static, str>,
    /// Unit of the values.
    pub unit: Unit,
    /// Which of two values is better.
    pub direction: Direction,
}

/// The unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unit {
    /// Nats per target.
    Nats,
    /// A number of at least 0 without a unit.
    Number,
    /// A share, from 0 to 1.
    Share,
    /// Items per second.
    PerSecond,
    /// Bytes.
    Bytes,
}

/// Which of two values is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The lower one.
    LowerIsBetter,
    /// The higher one.
    HigherIsBetter,
}

impl Metric {
    /// Mean cross-entropy per target.
    pub const LOSS: Self = Self::constant("loss", Unit::Nats, Direction::LowerIsBetter);
    /// `exp(loss)`.
    pub const PERPLEXITY: Self = Self::constant("perplexity", Unit::Number, Direction::LowerIsBetter);
    /// Share of targets to which the model gives the highest probability.
    pub const TOKEN_ACCURACY: Self = Self::constant("token_accuracy", Unit::Share, Direction::HigherIsBetter);
    /// Share of correctly classified samples.
    pub const ACCURACY: Self = Self::constant("accuracy", Unit::Share, Direction::HigherIsBetter);
    /// Training samples per second.
    pub const SAMPLES_PER_SECOND: Self =
        Self::constant("samples_per_second", Unit::PerSecond, Direction::HigherIsBetter);
    /// Training targets per second.
    pub const TOKENS_PER_SECOND: Self =
        Self::constant("tokens_per_second", Unit::PerSecond, Direction::HigherIsBetter);
    /// Resident memory of the process.
    pub const MEMORY: Self = Self::constant("memory", Unit::Bytes, Direction::LowerIsBetter);

    /// Defines a metric.
    pub fn new(name: impl Into<Cow<'static, str>>, unit: Unit, direction: Direction) -> Self {
        Self { name: name.into(), unit, direction }
    }

    const fn constant(name: &'static str, unit: Unit, direction: Direction) -> Self {
        Self { name: Cow::Borrowed(name), unit, direction }
    }

    /// How much better `value` is than `best`: above 0 if it is better, NaN if either is.
    pub fn improvement(&self, value: f64, best: f64) -> f64 {
        match self.direction {
            Direction::LowerIsBetter => best - value,
            Direction::HigherIsBetter => value - best,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Number => "1",
            Self::Share => "share",
            Self::PerSecond => "1/s",
            Self::Bytes => "bytes",
        })
    }
}

/// A quotient of two sums: the running value of a metric.
///
/// Sums of numerators and denominators do not depend on how samples are divided into batches; means of means
/// do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// For example the number of correctly predicted targets.
    pub numerator: f64,
    /// For example the number of targets.
    pub denominator: f64,
}

impl Ratio {
    /// Returns the quotient; NaN if the denominator is 0 as well.
    pub fn value(&self) -> f64 {
        self.numerator / self.denominator
    }
}

/// The loss and metrics of some batches, as sums.
///
/// ```
/// use trainer_core::{LossTotal, Measured, Metric, Ratio};
///
/// let batch = |loss, correct, targets: usize| {
///     Measured::new(LossTotal { sum: loss, targets })
///         .with(Metric::TOKEN_ACCURACY, Ratio { numerator: correct, denominator: targets as f64 })
/// };
/// let mut all = batch(3.0, 1.0, 1);
/// all.merge(&batch(3.0, 2.0, 5));
/// let values: Vec<_> = all.values().into_iter().map(|(metric, value)| (metric.name, value)).collect();
/// assert_eq!(
///     values,
///     [("loss".into(), 1.0), ("perplexity".into(), 1f64.exp()), ("token_accuracy".into(), 0.5)]
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// The loss.
    pub loss: LossTotal,
    ratios: Vec<(Metric, Ratio)>,
}

impl Measured {
    /// Creates a measurement with a loss and no further metrics.
    pub fn new(loss: LossTotal) -> Self {
        Self { loss, ratios: Vec::new() }
    }

    /// Adds a metric.
    #[must_use]
    pub fn with(mut self, metric: Metric, ratio: Ratio) -> Self {
        self.add(&metric, ratio);
        self
    }

    /// Adds the sums of other batches.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        for (metric, ratio) in &other.ratios {
            self.add(metric, *ratio);
        }
    }

    /// Returns the loss, the perplexity, and the task's metrics in the order they were added.
    pub fn values(&self) -> Vec<(Metric, f64)> {
        let mut values = vec![(Metric::LOSS, self.loss.mean()), (Metric::PERPLEXITY, self.loss.perplexity())];
        values.extend(self.ratios.iter().map(|(metric, ratio)| (metric.clone(), ratio.value())));
        values
    }

    /// The task's metrics in the order they were added.
    pub(crate) fn ratios(&self) -> impl Iterator<Item = &(Metric, Ratio)> {
        self.ratios.iter()
    }

    fn add(&mut self, metric: &Metric, ratio: Ratio) {
        match self.ratios.iter_mut().find(|(known, _)| known.name == metric.name) {
            Some((_, sum)) => {
                sum.numerator += ratio.numerator;
                sum.denominator += ratio.denominator;
            }
            None => self.ratios.push((metric.clone(), ratio)),
        }
    }
}
