//! Finds flags that contradict each other, or that have no effect.

use trainer_core::IntervalStrategy;

use crate::options::{
    CheckRows, DeviceName, Dtype, EvalStrategy, Finetune, FuseAccumulation, HeldOut, LrSchedulerType,
    NanPolicy, OnBadRow, Optim, SplitBy, SplitFractions, TRAINED_ENCODER, Tune,
};

/// The conflict between two flags.
pub(super) fn conflict(options: &Finetune) -> Option<String> {
    split_conflict(options).or_else(|| check_conflict(options)).or_else(|| int8_conflict(options))
}

/// The conflict between a split without validation rows and another flag.
fn split_conflict(options: &Finetune) -> Option<String> {
    let data = &options.data;
    if let Some([validation, _]) = data.held_out() {
        return held_out_conflict(options, validation.as_ref());
    }
    if data.split.validation > 0.0 {
        return None;
    }
    if options.training.eval_strategy != EvalStrategy::No {
        let split = &data.split;
        return Some(format!(
            "--split {split} leaves no rows for validation: give it a share, or use --eval-strategy no"
        ));
    }
    data.eval_captions.map(|_| {
        format!("--eval-captions captions rows for validation, and --split {} leaves none", data.split)
    })
}

/// The conflict between `--dtype int8` and another flag.
fn int8_conflict(options: &Finetune) -> Option<String> {
    let hardware = &options.hardware;
    let conflicts = hardware.dtype == Dtype::Int8 && hardware.device != DeviceName::Cpu;
    conflicts
        .then(|| "--dtype int8 is for --device cpu: other devices have no 8-bit products here".to_owned())
}

/// The conflict between `--validation` or `--test` and another flag.
fn held_out_conflict(options: &Finetune, validation: Option<&HeldOut>) -> Option<String> {
    let data = &options.data;
    let flag = if data.validation.is_some() { "--validation" } else { "--test" };
    if data.split != SplitFractions::default() {
        return Some(format!(
            "--split {} and {flag} both select the held-out rows: give one of them",
            data.split
        ));
    }
    if data.split_by == SplitBy::Picture && data.named_datasets().next().is_some() {
        return Some(format!("--split-by picture cannot be combined with a dataset that {flag} names"));
    }
    if validation.is_none() && options.training.eval_strategy != EvalStrategy::No {
        return Some(
            "--test without --validation leaves no rows for validation: give both, or use --eval-strategy no"
                .to_owned(),
        );
    }
    data.eval_captions.filter(|_| validation.is_none()).map(|_| {
        "--eval-captions captions rows for validation, and without --validation there are none".to_owned()
    })
}

/// The conflict between `--check-rows sample` and a flag that needs all rows to be checked.
fn check_conflict(options: &Finetune) -> Option<String> {
    let data = &options.data;
    let needs = match (data.on_bad_row, data.split_by) {
        (OnBadRow::Skip, _) => "--on-bad-row skip",
        (_, SplitBy::Picture) => "--split-by picture",
        _ => return None,
    };
    (data.check_rows == Some(CheckRows::Sample))
        .then(|| format!("{needs} needs every row to be checked: leave out --check-rows sample"))
}

/// A flag that was given without effect.
pub(super) struct IdleFlag {
    /// Its name, without dashes.
    pub(super) name: &'static str,
    /// Why, in a sentence that names it.
    pub(super) message: String,
}

impl IdleFlag {
    fn new(flag: &'static str, reason: &str) -> Self {
        Self { name: flag.trim_start_matches('-'), message: format!("{flag} {reason}") }
    }
}

/// A flag that was given without effect.
pub(super) fn idle_flag(options: &Finetune) -> Option<IdleFlag> {
    let engine = || {
        let (flag, need) = idle_engine_flag(options)?;
        Some(IdleFlag::new(flag, &format!("does nothing without {need}")))
    };
    let cache = || {
        let flag = idle_cache_flag(options)?;
        let reason = format!("does nothing where the vision encoder is trained: {TRAINED_ENCODER}");
        Some(IdleFlag::new(flag, &reason))
    };
    let lora = || {
        let reason = "does nothing with --tune full, which trains every weight without adapters";
        Some(IdleFlag::new(idle_lora_flag(options)?, reason))
    };
    engine().or_else(cache).or_else(lora)
}

/// An adapter flag that was given although there are no adapters.
fn idle_lora_flag(options: &Finetune) -> Option<&'static str> {
    let lora = &options.lora;
    let given = [
        ("--lora-r", lora.lora_r.is_some()),
        ("--lora-alpha", lora.lora_alpha.is_some()),
        ("--lora-dropout", lora.lora_dropout.is_some()),
        ("--target-modules", lora.target_modules.is_some()),
        ("--init-lora-weights", lora.init_lora_weights.is_some()),
        ("--use-rslora", lora.use_rslora),
        ("--use-dora", lora.use_dora),
        ("--lora-bias", lora.lora_bias),
        ("--bias", lora.bias.is_some()),
        ("--modules-to-save", !lora.modules_to_save.is_empty()),
        ("--init-adapter", lora.init_adapter.is_some()),
        ("--loraplus-lr-ratio", options.optimizer.loraplus_lr_ratio.is_some()),
    ];
    given.into_iter().find(|(_, given)| *given && lora.tune == Tune::Full).map(|(flag, _)| flag)
}

/// An engine flag that was given without effect, and the flag that it needs.
fn idle_engine_flag(options: &Finetune) -> Option<(&'static str, &'static str)> {
    let Finetune { data, training, optimizer, run, .. } = options;
    let schedule = training.lr_scheduler_type;
    let falls = schedule != LrSchedulerType::Constant;
    let saves_steps = options.save_interval() == IntervalStrategy::Steps;
    // The best evaluation so far is saved with any --save-strategy.
    let evaluates = training.eval_strategy != EvalStrategy::No;
    let saves = evaluates || options.save_interval() != IntervalStrategy::No;
    let needs = [
        (
            training.fuse_accumulation != FuseAccumulation::Auto,
            training.gradient_accumulation_steps > 1,
            "--fuse-accumulation",
            "--gradient-accumulation-steps above 1",
        ),
        (optimizer.sgd_momentum.is_some(), optimizer.optim == Optim::Sgd, "--sgd-momentum", "--optim sgd"),
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

/// A feature cache flag that was given although the encoder is certain to be trained. Target modules may
/// exclude the encoder with any --tune; that is known only when the model is built.
fn idle_cache_flag(options: &Finetune) -> Option<&'static str> {
    let trained = match options.lora.tune {
        Tune::Text => false,
        Tune::Vision | Tune::Both => {
            options.lora.target_modules.is_none() && options.lora.init_adapter.is_none()
        }
        Tune::Full => true,
    };
    options.hardware.cache_flag().filter(|_| trained)
}
