use std::fmt;

use crate::{Error, IntervalStrategy, ParameterGroup, Result, SchedulerType, TrainingArguments};

impl TrainingArguments {
    /// Checks every argument.
    ///
    /// # Errors
    /// [`Error::Arguments`] with all that is wrong, not only the first.
    pub fn validate(&self) -> Result<()> {
        let mut issues = Vec::new();
        let mut require = |holds: bool, argument: &str, rule: &str, got: &dyn fmt::Display| {
            if !holds {
                issues.push(format!("{argument} must be {rule}, got {got}"));
            }
        };
        let at_least_0 = |x: f64| x.is_finite() && x >= 0.0;

        require(
            self.num_train_epochs.is_finite() && self.num_train_epochs > 0.0,
            "num_train_epochs",
            "above 0",
            &self.num_train_epochs,
        );
        require(at_least_0(self.learning_rate), "learning_rate", "at least 0", &self.learning_rate);
        require((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "in [0, 1]", &self.warmup_ratio);
        require(
            at_least_0(self.max_grad_norm),
            "max_grad_norm",
            "at least 0 (0 turns clipping off)",
            &self.max_grad_norm,
        );
        let options = &self.lr_scheduler_kwargs;
        require(
            (0.0..=1.0).contains(&options.min_lr_rate),
            "lr_scheduler_kwargs.min_lr_rate",
            "in [0, 1]",
            &options.min_lr_rate,
        );
        require(
            options.power.is_finite() && options.power > 0.0,
            "lr_scheduler_kwargs.power",
            "above 0",
            &options.power,
        );
        // The other schedules do not use it.
        let (warmup, rule) = match self.lr_scheduler_type {
            SchedulerType::WarmupStableDecay => {
                (self.warmup_ratio, "at least 0 and at most 1 - warmup_ratio")
            }
            _ => (0.0, "in [0, 1]"),
        };
        require(
            options.decay_ratio >= 0.0 && options.decay_ratio + warmup.max(0.0) <= 1.0,
            "lr_scheduler_kwargs.decay_ratio",
            rule,
            &options.decay_ratio,
        );
        require(at_least_0(self.weight_decay), "weight_decay", "at least 0", &self.weight_decay);
        require((0.0..1.0).contains(&self.adam_beta1), "adam_beta1", "in [0, 1)", &self.adam_beta1);
        require((0.0..1.0).contains(&self.adam_beta2), "adam_beta2", "in [0, 1)", &self.adam_beta2);
        // It is added in f32, to a denominator that is 0 where all gradients were.
        let epsilon = self.adam_epsilon as f32;
        require(epsilon.is_finite() && epsilon > 0.0, "adam_epsilon", "above 0 as f32", &self.adam_epsilon);
        require((0.0..1.0).contains(&self.sgd_momentum), "sgd_momentum", "in [0, 1)", &self.sgd_momentum);
        let seconds = self.max_seconds.unwrap_or(1.0);
        require(seconds.is_finite() && seconds > 0.0, "max_seconds", "above 0", &seconds);
        require(
            at_least_0(self.early_stopping_threshold),
            "early_stopping_threshold",
            "at least 0",
            &self.early_stopping_threshold,
        );
        for ParameterGroup { name_contains, lr_ratio, weight_decay } in &self.parameter_groups {
            let argument = |field| format!("parameter_groups `{name_contains}`: {field}");
            require(at_least_0(*lr_ratio), &argument("lr_ratio"), "at least 0", lr_ratio);
            let decay = weight_decay.unwrap_or(0.0);
            require(at_least_0(decay), &argument("weight_decay"), "at least 0", &decay);
        }
        for (argument, count) in [
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("fused_micro_batches", self.fused_micro_batches),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
            ("lr_scheduler_kwargs.num_cycles", options.num_cycles),
            ("logging_steps", self.logging_steps),
        ] {
            require(count >= 1, argument, "at least 1", &count);
        }
        if self.output_dir.as_os_str().is_empty() {
            issues.push("output_dir must not be empty".to_owned());
        }
        if self.load_best_model_at_end && self.eval_strategy == IntervalStrategy::No {
            issues.push("load_best_model_at_end needs evaluations, but eval_strategy is no".to_owned());
        }
        if self.early_stopping_patience.is_some() && self.eval_strategy == IntervalStrategy::No {
            issues.push("early_stopping_patience needs evaluations, but eval_strategy is no".to_owned());
        }
        if issues.is_empty() { Ok(()) } else { Err(Error::Arguments { issues }) }
    }
}
