use caption_model::CaptionModel;
use trainer_core::{
    IntervalStrategy, OnNan, OptimizerType, ParameterGroup, SchedulerOptions, SchedulerType,
    TrainingArguments,
};

use super::{EvalStrategy, Finetune, FuseAccumulation, LrSchedulerType, NanPolicy, Optim, SaveStrategy};
use crate::fusing::fused;

impl Finetune {
    /// These options as arguments of the training engine. The output folder and the number of fused
    /// micro-batches are set later.
    pub fn training_arguments(&self) -> TrainingArguments {
        let Self { training, optimizer, run, .. } = self;
        let defaults = TrainingArguments::default();
        let options = defaults.lr_scheduler_kwargs;
        let eval_steps = run.eval_steps.unwrap_or(training.logging_steps);
        let loraplus = optimizer.loraplus_lr_ratio;
        let loraplus = loraplus.map(|lr_ratio| ParameterGroup { lr_ratio, ..ParameterGroup::new("lora_B") });
        TrainingArguments {
            overwrite_output_dir: self.data.overwrite_output_dir,
            num_train_epochs: training.num_train_epochs,
            max_steps: training.max_steps,
            learning_rate: self.learning_rate(),
            lr_scheduler_type: match training.lr_scheduler_type {
                LrSchedulerType::Linear => SchedulerType::Linear,
                LrSchedulerType::Cosine => SchedulerType::Cosine,
                LrSchedulerType::CosineWithRestarts => SchedulerType::CosineWithRestarts,
                LrSchedulerType::Polynomial => SchedulerType::Polynomial,
                LrSchedulerType::Constant => SchedulerType::ConstantWithWarmup,
                LrSchedulerType::WarmupStableDecay => SchedulerType::WarmupStableDecay,
            },
            lr_scheduler_kwargs: SchedulerOptions {
                min_lr_rate: optimizer.min_lr_rate.unwrap_or(options.min_lr_rate),
                num_cycles: optimizer.lr_num_cycles.unwrap_or(options.num_cycles),
                power: optimizer.lr_power.unwrap_or(options.power),
                decay_ratio: optimizer.lr_decay_ratio.unwrap_or(options.decay_ratio),
            },
            warmup_ratio: training.warmup_ratio,
            gradient_accumulation_steps: training.gradient_accumulation_steps,
            max_grad_norm: training.max_grad_norm,
            optim: match optimizer.optim {
                Optim::Adamw => OptimizerType::AdamW,
                Optim::Sgd => OptimizerType::Sgd,
            },
            weight_decay: training.weight_decay,
            parameter_groups: loraplus.into_iter().collect(),
            sgd_momentum: optimizer.sgd_momentum.unwrap_or(defaults.sgd_momentum),
            on_nan: match run.on_nan {
                NanPolicy::Stop => OnNan::Stop,
                NanPolicy::Skip => OnNan::Skip,
            },
            max_skipped_steps: run.max_skipped_steps.unwrap_or(defaults.max_skipped_steps),
            max_seconds: run.max_time,
            eval_strategy: self.eval_interval(),
            eval_steps,
            save_strategy: self.save_interval(),
            save_steps: run.save_steps.unwrap_or(eval_steps),
            save_total_limit: training.save_total_limit,
            logging_steps: training.logging_steps,
            load_best_model_at_end: training.eval_strategy != EvalStrategy::No,
            early_stopping_patience: run.early_stopping_patience,
            early_stopping_threshold: run.early_stopping_threshold.unwrap_or(0.0),
            seed: training.seed,
            ..defaults
        }
    }

    fn eval_interval(&self) -> IntervalStrategy {
        match self.training.eval_strategy {
            EvalStrategy::Epoch => IntervalStrategy::Epoch,
            EvalStrategy::Steps => IntervalStrategy::Steps,
            EvalStrategy::No => IntervalStrategy::No,
        }
    }

    pub(crate) fn save_interval(&self) -> IntervalStrategy {
        match self.run.save_strategy {
            Some(SaveStrategy::Epoch) => IntervalStrategy::Epoch,
            Some(SaveStrategy::Steps) => IntervalStrategy::Steps,
            Some(SaveStrategy::No) => IntervalStrategy::No,
            None => self.eval_interval(),
        }
    }

    /// The number of fused micro-batches:
    /// [`TrainingOptions::fuse_accumulation`](super::TrainingOptions::fuse_accumulation), or as many as take little memory, which
    /// depends on the model and on the longest `caption` in tokens.
    pub fn fused_micro_batches(
        &self,
        model: &dyn CaptionModel,
        caption: usize,
        vision_trains: bool,
    ) -> usize {
        let pictures = self.training.per_device_train_batch_size;
        let fused = match self.training.fuse_accumulation {
            FuseAccumulation::UpTo(count) => count,
            FuseAccumulation::Auto => {
                let activations = model.caption_config().saved_activations(caption, vision_trains);
                fused(self.hardware.dtype, pictures, activations)
            }
        };
        fused.min(self.training.gradient_accumulation_steps)
    }
}
