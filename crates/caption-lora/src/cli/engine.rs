use clap::Args;
use git_model::GitConfig;
use trainer_core::{
    IntervalStrategy, OnNan, OptimizerType, ParameterGroup, SchedulerOptions, SchedulerType,
    TrainingArguments,
};

use super::{
    EvalStrategy, Finetune, FuseAccumulation, LrSchedulerType, NanPolicy, Optim, ReportTo, SaveStrategy,
    values::{at_least_zero, count, positive, seconds, share, whole},
};
use crate::fusing::MicroBatch;

/// Optimizer options.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Optimizer and schedule")]
pub struct OptimizerOptions {
    /// The optimizer
    #[arg(long, value_enum, default_value_t)]
    pub optim: Optim,
    /// SGD's momentum [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub sgd_momentum: Option<f64>,
    /// LoRA+: learning rate of every lora_B, as a multiple of that of lora_A [default: 1]
    #[arg(long, value_name = "RATIO", value_parser = positive)]
    pub loraplus_lr_ratio: Option<f64>,
    /// Final value of a decaying learning rate, as a share of the highest [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub min_lr_rate: Option<f64>,
    /// Cycles of --lr-scheduler-type cosine-with-restarts [default: 1]
    #[arg(long, value_name = "WAVES", value_parser = count)]
    pub lr_num_cycles: Option<usize>,
    /// The exponent of --lr-scheduler-type polynomial [default: 1]
    #[arg(long, value_name = "POWER", value_parser = positive)]
    pub lr_power: Option<f64>,
    /// Share of the steps in which --lr-scheduler-type warmup-stable-decay decays [default: 0.2]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub lr_decay_ratio: Option<f64>,
}

/// When to evaluate, save and end, and which logs to write.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Evaluating, saving and ending")]
pub struct RunOptions {
    /// Steps between evaluations with --eval-strategy steps [default: --logging-steps]
    #[arg(long, value_name = "STEPS", value_parser = count)]
    pub eval_steps: Option<usize>,
    /// When to save a checkpoint. Every evaluation that is the best so far is saved in any case [default:
    /// --eval-strategy]
    #[arg(long, value_enum)]
    pub save_strategy: Option<SaveStrategy>,
    /// Steps between checkpoints with --save-strategy steps [default: --eval-steps]
    #[arg(long, value_name = "STEPS", value_parser = count)]
    pub save_steps: Option<usize>,
    /// End after this many evaluations in a row without a new best
    #[arg(long, value_name = "EVALUATIONS", value_parser = count)]
    pub early_stopping_patience: Option<usize>,
    /// How much lower than the best a validation loss must be to count for --early-stopping-patience
    /// [default: 0]
    #[arg(long, value_name = "LOSS", value_parser = at_least_zero)]
    pub early_stopping_threshold: Option<f64>,
    /// End after this much training time, such as 90s, 45m or 2h; the time before --resume counts too
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub max_time: Option<f64>,
    /// What to do with a step whose loss or gradient is not a number; such a step is never applied
    #[arg(long, value_enum, default_value_t)]
    pub on_nan: NanPolicy,
    /// Maximum number of steps that --on-nan skip skips before it stops [default: 10]
    #[arg(long, value_name = "STEPS", value_parser = whole)]
    pub max_skipped_steps: Option<usize>,
    /// Additional logs of the learning curves, separated by commas: log.csv, tensorboard/
    #[arg(long, value_enum, value_name = "FORMATS", value_delimiter = ',')]
    pub report_to: Vec<ReportTo>,
}

impl Finetune {
    /// The command line as arguments of the training engine. The output folder and the number of fused
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

    fn save_interval(&self) -> IntervalStrategy {
        match self.run.save_strategy {
            Some(SaveStrategy::Epoch) => IntervalStrategy::Epoch,
            Some(SaveStrategy::Steps) => IntervalStrategy::Steps,
            Some(SaveStrategy::No) => IntervalStrategy::No,
            None => self.eval_interval(),
        }
    }

    /// The number of fused micro-batches: --fuse-accumulation, else as many as take little memory. It depends
    /// on the model and the longest caption.
    pub fn fused_micro_batches(&self, config: &GitConfig, caption: usize, vision_trains: bool) -> usize {
        let pictures = self.training.per_device_train_batch_size;
        let fused = match self.training.fuse_accumulation {
            FuseAccumulation::UpTo(count) => count,
            FuseAccumulation::Auto => MicroBatch { pictures, caption, vision_trains }.fused(config),
        };
        fused.min(self.training.gradient_accumulation_steps)
    }

    /// An engine flag that was given without effect, and the flag that it needs.
    pub(super) fn idle_engine_flag(&self) -> Option<(&'static str, &'static str)> {
        let Self { data, training, optimizer, run, .. } = self;
        let schedule = training.lr_scheduler_type;
        let falls = schedule != LrSchedulerType::Constant;
        let saves_steps = self.save_interval() == IntervalStrategy::Steps;
        // The best evaluation so far is saved whatever --save-strategy says.
        let evaluates = training.eval_strategy != EvalStrategy::No;
        let saves = evaluates || self.save_interval() != IntervalStrategy::No;
        let needs = [
            (
                training.fuse_accumulation != FuseAccumulation::Auto,
                training.gradient_accumulation_steps > 1,
                "--fuse-accumulation",
                "--gradient-accumulation-steps above 1",
            ),
            (
                optimizer.sgd_momentum.is_some(),
                optimizer.optim == Optim::Sgd,
                "--sgd-momentum",
                "--optim sgd",
            ),
            (optimizer.min_lr_rate.is_some(), falls, "--min-lr-rate", "a learning rate that falls"),
            (
                optimizer.lr_num_cycles.is_some(),
                schedule == LrSchedulerType::CosineWithRestarts,
                "--lr-num-cycles",
                "--lr-scheduler-type cosine-with-restarts",
            ),
            (
                optimizer.lr_power.is_some(),
                schedule == LrSchedulerType::Polynomial,
                "--lr-power",
                "--lr-scheduler-type polynomial",
            ),
            (
                optimizer.lr_decay_ratio.is_some(),
                schedule == LrSchedulerType::WarmupStableDecay,
                "--lr-decay-ratio",
                "--lr-scheduler-type warmup-stable-decay",
            ),
            (
                run.eval_steps.is_some(),
                training.eval_strategy == EvalStrategy::Steps,
                "--eval-steps",
                "--eval-strategy steps",
            ),
            (run.save_steps.is_some(), saves_steps, "--save-steps", "--save-strategy steps"),
            (
                training.save_total_limit.is_some(),
                saves,
                "--save-total-limit",
                "checkpoints: --save-strategy or --eval-strategy",
            ),
            (
                data.eval_captions.is_some(),
                saves,
                "--eval-captions",
                "checkpoints: --save-strategy or --eval-strategy",
            ),
            (run.early_stopping_patience.is_some(), evaluates, "--early-stopping-patience", "evaluations"),
            (
                run.early_stopping_threshold.is_some(),
                run.early_stopping_patience.is_some(),
                "--early-stopping-threshold",
                "--early-stopping-patience",
            ),
            (
                run.max_skipped_steps.is_some(),
                run.on_nan == NanPolicy::Skip,
                "--max-skipped-steps",
                "--on-nan skip",
            ),
        ];
        needs.into_iter().find(|(given, met, ..)| *given && !met).map(|(_, _, flag, need)| (flag, need))
    }
}
