use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{BoxError, Metric, TrainingArguments};

/// The learning rate of every optimizer step.
///
/// [`TrainingArguments::lr_scheduler_type`] selects a built-in [`Schedule`];
/// [`Trainer::schedule`](crate::Trainer::schedule) takes any other. A closure is a schedule without state:
///
/// ```
/// use trainer_core::LearningRateSchedule;
///
/// let inverse_square_root = |step: usize, _max_steps: usize| 1e-3 / ((step + 1) as f64).sqrt();
/// assert_eq!(inverse_square_root.learning_rate(3, 100), 5e-4);
/// ```
pub trait LearningRateSchedule: Send {
    /// Names the kind of schedule. A checkpoint records it, and a run with another kind cannot resume from it.
    fn name(&self) -> &str;

    /// Returns the learning rate of the step with index `step` (from 0) of `max_steps`. It must be finite and at least 0.
    fn learning_rate(&self, step: usize, max_steps: usize) -> f64;

    /// Called after every evaluation with the metric that selects the best one, for schedules that depend on it. The value
    /// may be NaN. Default: nothing.
    fn evaluated(&mut self, _metric: &Metric, _value: f64) {}

    /// Returns the state that a resumed run needs, as text in any format. Default: none.
    fn state(&self) -> String {
        String::new()
    }

    /// Restores the state that [`state`](Self::state) returned. Default: an error unless it is empty.
    ///
    /// # Errors
    /// If the text is not a state of this schedule.
    fn set_state(&mut self, state: &str) -> Result<(), BoxError> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(format!("the schedule `{}` has no state, got {state:?}", self.name()).into())
        }
    }
}

impl<F: Fn(usize, usize) -> f64 + Send> LearningRateSchedule for F {
    fn name(&self) -> &str {
        "closure"
    }

    fn learning_rate(&self, step: usize, max_steps: usize) -> f64 {
        self(step, max_steps)
    }
}

impl LearningRateSchedule for Schedule {
    fn name(&self) -> &str {
        BUILT_IN
    }

    fn learning_rate(&self, step: usize, _max_steps: usize) -> f64 {
        self.learning_rate(step)
    }
}

/// The name of [`Schedule`], which may change its shape on resume, as all its arguments may.
pub(crate) const BUILT_IN: &str = "built-in";

/// The shape of a built-in schedule, with the names of Hugging Face's `SchedulerType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerType {
    /// Warm-up, then linear decay.
    Linear,
    /// Warm-up, then decay along half a cosine wave.
    #[serde(alias = "cosine_with_min_lr")]
    Cosine,
    /// Warm-up, then repeated decay along half a cosine wave, each time from the peak.
    CosineWithRestarts,
    /// Warm-up, then decay as a power of the share of remaining steps.
    Polynomial,
    /// Constant, without a warm-up, as in transformers.
    Constant,
    /// Warm-up, then constant.
    ConstantWithWarmup,
    /// Warm-up, then constant, then decay along half a cosine wave.
    WarmupStableDecay,
}

/// Options of individual schedules, with the names of Hugging Face's `lr_scheduler_kwargs`, but as shares instead of steps or
/// rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerOptions {
    /// Final learning rate of the decaying schedules, as a share of the peak. Default 0.
    pub min_lr_rate: f64,
    /// Number of waves of `cosine_with_restarts`. Default 1.
    pub num_cycles: usize,
    /// Exponent of `polynomial`. Default 1.
    pub power: f64,
    /// Share of all steps, rounded up, during which `warmup_stable_decay` decays. Default 0.2.
    pub decay_ratio: f64,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { min_lr_rate: 0.0, num_cycles: 1, power: 1.0, decay_ratio: 0.2 }
    }
}

/// The built-in schedules.
///
/// With peak `p`, lowest share `m`, `w` warm-up steps of `n` in all, and `x = (t - w) / (n - w)`, step `t` (from 0)
/// has the rate `p · t / w` during the warm-up (so the first step has rate 0), and then `p · (f (1 - m) + m)` with
/// - linear: `f = 1 - x`;
/// - cosine: `f = (1 + cos(π x)) / 2`;
/// - cosine with `c` restarts: the same of the fractional part of `c x`;
/// - polynomial: `f = (1 - x)^power`;
/// - warm-up, stable, decay: `f = 1`, and in the last `d` steps cosine with `x = (t - n + d) / d`. Here the warm-up
///   starts at `p m`.
///
/// These are the values of `transformers.get_scheduler`.
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
    /// Creates a schedule of `total_steps` optimizer steps, of which the first `ceil(warmup_ratio · total_steps)` are the
    /// warm-up.
    pub fn new(kind: SchedulerType, peak: f64, warmup_ratio: f64, total_steps: usize) -> Self {
        let warmup_steps = share(warmup_ratio, total_steps);
        Self { kind, peak, warmup_steps, total_steps, options: SchedulerOptions::default() }
    }

    /// Sets the options.
    #[must_use]
    pub fn with(self, options: SchedulerOptions) -> Self {
        Self { options, ..self }
    }

    pub(crate) fn from_arguments(arguments: &TrainingArguments, total_steps: usize) -> Self {
        let kind = arguments.lr_scheduler_type;
        Self::new(kind, arguments.learning_rate, arguments.warmup_ratio, total_steps)
            .with(arguments.lr_scheduler_kwargs)
    }

    /// Number of warm-up steps.
    pub fn warmup_steps(&self) -> usize {
        self.warmup_steps
    }

    /// Returns the learning rate of the step with index `step`, from 0.
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
            // Not `1 - progress`, which transformers would round differently.
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

/// Half a cosine wave, from 1 at progress 0 to 0 at progress 1.
fn half_wave(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

/// A share of all steps, rounded up.
fn share(ratio: f64, total_steps: usize) -> usize {
    (total_steps as f64 * ratio).ceil() as usize
}
