use super::names::names;

/// The optimizer, and details of its schedule.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OptimizerOptions {
    /// The optimizer. Default: AdamW.
    pub optim: Optim,
    /// SGD's momentum. Default: 0.
    pub sgd_momentum: Option<f64>,
    /// LoRA+: learning rate of every lora_B, as a multiple of that of lora_A. Default: 1.
    pub loraplus_lr_ratio: Option<f64>,
    /// Final value of a decaying learning rate, as a share of the highest. Default: 0.
    pub min_lr_rate: Option<f64>,
    /// Cycles of a cosine schedule with restarts. Default: 1.
    pub lr_num_cycles: Option<usize>,
    /// The exponent of a polynomial schedule. Default: 1.
    pub lr_power: Option<f64>,
    /// Share of the steps in which a warmup-stable-decay schedule decays. Default: 0.2.
    pub lr_decay_ratio: Option<f64>,
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Optim {
    /// AdamW.
    #[default]
    Adamw,
    /// Stochastic gradient descent.
    Sgd,
}

names!(Optim { Adamw => "adamw", Sgd => "sgd" });
