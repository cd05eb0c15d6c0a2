use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The shape of a learning-rate schedule, by the names of Hugging Face's `SchedulerType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Rises during the warm-up, then falls linearly to 0.
    Linear,
    /// Rises during the warm-up, then falls to 0 along half a cosine wave.
    Cosine,
    /// The peak at every step; without a warm-up, as in transformers.
    Constant,
    /// Rises during the warm-up, then stays at the peak.
    ConstantWithWarmup,
}

/// The learning rate of every optimizer step.
///
/// With peak `p`, `w` warm-up steps of `n` in all, step `t` (from 0) runs at
/// - `p · t / w` during the warm-up, so that the first step runs at 0;
/// - linear: `p · (n - t) / (n - w)`;
/// - cosine: `p · (1 + cos(π (t - w) / (n - w))) / 2`.
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
}

impl Schedule {
    /// A schedule of `total_steps` optimizer steps, the first `ceil(warmup_ratio · total_steps)` of them warm-up.
    pub fn new(kind: SchedulerType, peak: f64, warmup_ratio: f64, total_steps: usize) -> Self {
        let warmup_steps = (total_steps as f64 * warmup_ratio).ceil() as usize;
        Self { kind, peak, warmup_steps, total_steps }
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
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        match self.kind {
            SchedulerType::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            SchedulerType::Cosine => {
                let progress = (step - self.warmup_steps) as f64 / decay_steps;
                0.5 * (1.0 + (PI * progress).cos())
            }
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}
