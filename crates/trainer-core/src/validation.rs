use std::fmt;

use crate::{Error, IntervalStrategy, Result, SchedulerType, TrainingArguments};

impl TrainingArguments {
    /// Checks every argument.
    ///
    /// # Errors
    /// [`Error::Arguments`] lists all issues, not only the first.
    pub fn validate(&self) -> Result<()> {
        let mut issues = Issues(Vec::new());
        self.check_optimization(&mut issues);
        self.check_schedule(&mut issues);
        self.check_counts(&mut issues);
        self.check_intervals(&mut issues);
        if issues.0.is_empty() { Ok(()) } else { Err(Error::Arguments { issues: issues.0 }) }
    }

    fn check_optimization(&self, issues: &mut Issues) {
        issues.at_least_0("learning_rate", self.learning_rate);
        let clipping = "at least 0 (0 turns clipping off)";
        let norm = self.max_grad_norm;
        issues.require(is_at_least_0(norm), "max_grad_norm", clipping, norm);
        issues.at_least_0("weight_decay", self.weight_decay);
        for (argument, decay) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("sgd_momentum", self.sgd_momentum),
        ] {
            issues.require((0.0..1.0).contains(&decay), argument, "in [0, 1)", decay);
        }
        // The epsilon is added in f32, to a denominator that is 0 if all gradients were 0.
        let epsilon = self.adam_epsilon as f32;
        let is_positive = epsilon.is_finite() && epsilon > 0.0;
        issues.require(is_positive, "adam_epsilon", "above 0 as f32", self.adam_epsilon);
        for group in &self.parameter_groups {
            let argument = |field| format!("parameter_groups `{}`: {field}", group.name_contains);
            issues.at_least_0(&argument("lr_ratio"), group.lr_ratio);
            issues.at_least_0(&argument("weight_decay"), group.weight_decay.unwrap_or(0.0));
        }
    }

    fn check_schedule(&self, issues: &mut Issues) {
        let share = "in [0, 1]";
        let is_share = |x: f64| (0.0..=1.0).contains(&x);
        issues.require(is_share(self.warmup_ratio), "warmup_ratio", share, self.warmup_ratio);
        let options = &self.lr_scheduler_kwargs;
        let lowest = options.min_lr_rate;
        issues.require(is_share(lowest), "lr_scheduler_kwargs.min_lr_rate", share, lowest);
        issues.above_0("lr_scheduler_kwargs.power", options.power);
        // Only this schedule has both a warm-up and a decay phase within the same steps.
        let (warmup, rule) = match self.lr_scheduler_type {
            SchedulerType::WarmupStableDecay => {
                (self.warmup_ratio, "at least 0 and at most 1 - warmup_ratio")
            }
            _ => (0.0, share),
        };
        let decay = options.decay_ratio;
        let fits = decay >= 0.0 && decay + warmup.max(0.0) <= 1.0;
        issues.require(fits, "lr_scheduler_kwargs.decay_ratio", rule, decay);
    }

    fn check_counts(&self, issues: &mut Issues) {
        issues.above_0("num_train_epochs", self.num_train_epochs);
        issues.above_0("max_seconds", self.max_seconds.unwrap_or(1.0));
        for (argument, count) in [
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("fused_micro_batches", self.fused_micro_batches),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
            ("lr_scheduler_kwargs.num_cycles", self.lr_scheduler_kwargs.num_cycles),
            ("logging_steps", self.logging_steps),
        ] {
            issues.require(count >= 1, argument, "at least 1", count);
        }
    }

    fn check_intervals(&self, issues: &mut Issues) {
        issues.at_least_0("early_stopping_threshold", self.early_stopping_threshold);
        if self.output_dir.as_os_str().is_empty() {
            issues.0.push("output_dir must not be empty".to_owned());
        }
        for (argument, is_set) in [
            ("load_best_model_at_end", self.load_best_model_at_end),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
        ] {
            if is_set && self.eval_strategy == IntervalStrategy::No {
                issues.0.push(format!("{argument} needs evaluations, but eval_strategy is no"));
            }
        }
    }
}

/// The issues found so far; each begins with the name of its argument.
struct Issues(Vec<String>);

impl Issues {
    fn require(&mut self, holds: bool, argument: &str, rule: &str, got: impl fmt::Display) {
        if !holds {
            self.0.push(format!("{argument} must be {rule}, got {got}"));
        }
    }

    fn at_least_0(&mut self, argument: &str, got: f64) {
        let rule = if got.is_finite() { "at least 0" } else { "finite and at least 0" };
        self.require(is_at_least_0(got), argument, rule, got);
    }

    fn above_0(&mut self, argument: &str, got: f64) {
        let rule = if got.is_finite() { "above 0" } else { "finite and above 0" };
        self.require(got.is_finite() && got > 0.0, argument, rule, got);
    }
}

fn is_at_least_0(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}
