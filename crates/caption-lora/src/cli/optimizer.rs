use clap::Args;

use super::numbers::{count, positive, share};
use crate::options::{Optim, OptimizerOptions};

/// Optimizer options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Optimizer and schedule")]
pub(super) struct OptimizerFlags {
    /// The optimizer
    #[arg(long, value_enum, default_value_t)]
    optim: Optim,
    /// SGD's momentum [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    sgd_momentum: Option<f64>,
    /// LoRA+: learning rate of every lora_B, as a multiple of that of lora_A [default: 1]
    #[arg(long, value_name = "RATIO", value_parser = positive)]
    loraplus_lr_ratio: Option<f64>,
    /// Final value of a decaying learning rate, as a share of the highest [default: 0]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    min_lr_rate: Option<f64>,
    /// Cycles of --lr-scheduler-type cosine-with-restarts [default: 1]
    #[arg(long, value_name = "WAVES", value_parser = count)]
    lr_num_cycles: Option<usize>,
    /// The exponent of --lr-scheduler-type polynomial [default: 1]
    #[arg(long, value_name = "POWER", value_parser = positive)]
    lr_power: Option<f64>,
    /// Share of the steps in which --lr-scheduler-type warmup-stable-decay decays [default: 0.2]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    lr_decay_ratio: Option<f64>,
}

same_fields! {
    OptimizerFlags => OptimizerOptions {
        optim,
        sgd_momentum,
        loraplus_lr_ratio,
        min_lr_rate,
        lr_num_cycles,
        lr_power,
        lr_decay_ratio,
    }
}
