use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::TrainingArguments;

/// The shape of a learning-rate schedule, by the names of Hugging Face's `SchedulerType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Rises during the warm-up, then falls linearly.
    Linear,
    /// Rises during the warm-up, then falls along half a cosine wave.
    #[serde(alias = "cosine_with_min_lr")]
    Cosine,
    /// Rises during the warm-up, then falls along half a cosine wave, several times over.
    CosineWithRestarts,
    /// Rises during the warm-up, then falls as a power of the steps that are left.
    Polynomial,
    /// The peak at every step; without a warm-up, as in transformers.
    Constant,
    /// Rises during the warm-up, then stays at the peak.
    ConstantWithWarmup,
    /// Rises during the warm-up, stays at the peak, and falls along half a cosine wave at the end.
    WarmupStableDecay,
}

/// What some schedules can be told besides; the names of Hugging Face's `lr_scheduler_kwargs`, but for shares where
/// those are steps or rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerOptions {
    /// Where every schedule that falls ends, as a share of the peak. Default 0.
    pub min_lr_rate: f64,
    /// Waves of `cosine_with_restarts`. Default 1.
    pub num_cycles: usize,
    /// The exponent of `polynomial`. Default 1.
    pub power: f64,
    /// Share of all steps, rounded up, in which `warmup_stable_decay` falls. Default 0.2.
    pub decay_ratio: f64,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { min_lr_rate: 0.0, num_cycles: 1, power: 1.0, decay_ratio: 0.2 }
    }
}

/// The learning rate of every optimizer step.
///
/// With peak `p`, lowest share `m`, `w` warm-up steps of `n` in all, and `x = (t - w) / (n - w)`, step `t` (from 0)
/// runs at `p · t / w` during the warm-up, so that the first step runs at 0, and then at `p · (f (1 - m) + m)` with
/// - linear: `f = 1 - x`;
/// - cosine: `f = (1 + cos(π x)) / 2`;
/// - cosine with `c` restarts: the same of the fraction of `c x`;
/// - polynomial: `f = (1 - x)^power`;
/// - warm-up, stable, decay: `f = 1`, and in the last `d` steps cosine with `x = (t - n + d) / d`. Here the warm-up
///   begins at `p m`.
///
/// The same values as `transformers.get_scheduler`.
///
/// ```
/// use trainer_core::{Schedule, SchedulerType};
///
/// let schedule = Schedule::new(SchedulerType::Linear, 1e-3, 0.2, 10);
/// assert_eq!(schedule.warmup_steps(), 2);
/// assert_eq!([0, 1, 2, 6].map(|step| schedule.learning_rate(step)), [0.0, 5e-4, 1e-3, 5e-4]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: SchedulerType,
    peak: f64,
    warmup_steps: usize,
    total_steps: usize,
    options: SchedulerOptions,
}

impl Schedule {
    /// A schedule of `total_steps` optimizer steps, the first `ceil(warmup_ratio · total_steps)` of them warm-up.
    pub fn new(kind: SchedulerType, peak: f64, warmup_ratio: f64, total_steps: usize) -> Self {
        let warmup_steps = share(warmup_ratio, total_steps);
        Self { kind, peak, warmup_steps, total_steps, options: SchedulerOptions::default() }
    }

    /// The same with other options.
    #[must_use]
    pub fn with(self, options: SchedulerOptions) -> Self {
        Self { options, ..self }
    }

    pub(crate) fn of(arguments: &TrainingArguments, total_steps: usize) -> Self {
        let kind = arguments.lr_scheduler_type;
        Self::new(kind, arguments.learning_rate, arguments.warmup_ratio, total_steps)
            .with(arguments.lr_scheduler_kwargs)
    }

    /// Optimizer steps in which the rate rises.
    pub fn warmup_steps(&self) -> usize {
        self.warmup_steps
    }

    /// The rate that the optimizer step with index `step`, from 0, runs at.
    pub fn learning_rate(&self, step: usize) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: usize) -> f64 {
        if self.kind == SchedulerType::Constant {
            return 1.0;
        }
        let lowest = self.options.min_lr_rate;
        let from_lowest = |factor: f64| factor * (1.0 - lowest) + lowest;
        if step < self.warmup_steps {
            let factor = step as f64 / self.warmup_steps as f64;
            let stable = self.kind == SchedulerType::WarmupStableDecay;
            return if stable { from_lowest(factor) } else { factor };
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / decay_steps;
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            _ if step >= self.total_steps => lowest,
            // Not `1 - progress`, which rounds otherwise than transformers does.
            SchedulerType::Linear => from_lowest((self.total_steps - step) as f64 / decay_steps),
            SchedulerType::Cosine => from_lowest(half_wave(progress)),
            SchedulerType::CosineWithRestarts => {
                from_lowest(half_wave((self.options.num_cycles as f64 * progress).fract()))
            }
            SchedulerType::Polynomial => from_lowest((1.0 - progress).powf(self.options.power)),
            SchedulerType::WarmupStableDecay => {
                let decay_steps = share(self.options.decay_ratio, self.total_steps);
                let stable_until = self.total_steps.saturating_sub(decay_steps).max(self.warmup_steps);
                if step < stable_until {
                    return 1.0;
                }
                from_lowest(half_wave((step - stable_until) as f64 / decay_steps.max(1) as f64))
            }
        }
    }
}

/// From 1 at 0 down to 0 at 1.
fn half_wave(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

/// A share of all steps, rounded up.
fn share(ratio: f64, total_steps: usize) -> usize {
    (total_steps as f64 * ratio).ceil() as usize
}
