use std::fmt;

use serde::Serialize;

use crate::LossTotal;

/// Something that is measured: what it is called, what it is counted in, and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Name in snake case, without a prefix such as `eval_`.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// Which of two values is better.
    pub direction: Direction,
}

/// What a metric is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nats (natural logarithms) a target.
    Nats,
    /// A number without a unit, from 0.
    Number,
    /// A share from 0 to 1.
    Share,
    /// Things a second.
    PerSecond,
    /// Bytes.
    Bytes,
}

/// Which of two values is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The lower one.
    LowerIsBetter,
    /// The higher one.
    HigherIsBetter,
}

impl Metric {
    /// Mean cross-entropy of a target.
    pub const LOSS: Self = Self::new("loss", Unit::Nats, Direction::LowerIsBetter);
    /// `exp(loss)`: among how many equally likely targets the model hesitates.
    pub const PERPLEXITY: Self = Self::new("perplexity", Unit::Number, Direction::LowerIsBetter);
    /// Share of the targets that the model finds likeliest.
    pub const TOKEN_ACCURACY: Self = Self::new("token_accuracy", Unit::Share, Direction::HigherIsBetter);
    /// Share of the samples that are classified as they should be.
    pub const ACCURACY: Self = Self::new("accuracy", Unit::Share, Direction::HigherIsBetter);
    /// Training samples a second.
    pub const SAMPLES_PER_SECOND: Self =
        Self::new("samples_per_second", Unit::PerSecond, Direction::HigherIsBetter);
    /// Training targets a second.
    pub const TOKENS_PER_SECOND: Self =
        Self::new("tokens_per_second", Unit::PerSecond, Direction::HigherIsBetter);
    /// Memory of the process.
    pub const MEMORY: Self = Self::new("memory", Unit::Bytes, Direction::LowerIsBetter);

    /// A metric of your own.
    pub const fn new(name: &'static str, unit: Unit, direction: Direction) -> Self {
        Self { name, unit, direction }
    }

    /// By how much `value` is better than `best`: above 0 where it is better, NaN where it is not a number.
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

/// A quotient of two sums: all that is kept of a metric while batches pass by.
///
/// Sums of numerators and denominators, unlike means of means, do not depend on how samples are batched.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio {
    /// Sum of what is counted, such as targets that were predicted.
    pub numerator: f64,
    /// Sum of what it is counted among, such as all targets.
    pub denominator: f64,
}

impl Ratio {
    /// The quotient; NaN if nothing was counted.
    pub fn value(&self) -> f64 {
        self.numerator / self.denominator
    }
}

/// What was measured on some batches: a loss, and whatever else a task counts. Only sums, never logits.
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
/// assert_eq!(values, [("loss", 1.0), ("perplexity", 1f64.exp()), ("token_accuracy", 0.5)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The loss.
    pub loss: LossTotal,
    ratios: Vec<(Metric, Ratio)>,
}

impl Measured {
    /// A loss and nothing else.
    pub fn new(loss: LossTotal) -> Self {
        Self { loss, ratios: Vec::new() }
    }

    /// The same with one more metric.
    #[must_use]
    pub fn with(mut self, metric: Metric, ratio: Ratio) -> Self {
        self.add(metric, ratio);
        self
    }

    /// Adds what was measured on other batches.
    pub fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        for (metric, ratio) in &other.ratios {
            self.add(*metric, *ratio);
        }
    }

    /// Loss, perplexity, and the task's metrics in the order in which they came.
    pub fn values(&self) -> Vec<(Metric, f64)> {
        let mut values = vec![(Metric::LOSS, self.loss.mean()), (Metric::PERPLEXITY, self.loss.perplexity())];
        values.extend(self.ratios.iter().map(|(metric, ratio)| (*metric, ratio.value())));
        values
    }

    fn add(&mut self, metric: Metric, ratio: Ratio) {
        match self.ratios.iter_mut().find(|(known, _)| known.name == metric.name) {
            Some((_, sum)) => {
                sum.numerator += ratio.numerator;
                sum.denominator += ratio.denominator;
            }
            None => self.ratios.push((metric, ratio)),
        }
    }
}
