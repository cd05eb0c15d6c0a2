use std::path::PathBuf;

use clap::Args;
use peft_lora::{Bias, InitLoraWeights};

use super::numbers::{count, dropout, positive};
use crate::options::{LoraOptions, TargetModules, Tune, peft_value};

/// Which parameters are trained.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "LoRA")]
pub(super) struct LoraFlags {
    /// Which part of the model is trained
    #[arg(long, value_enum, default_value_t)]
    tune: Tune,
    /// Rank of the adapters [default: 16, or that of --init-adapter]
    #[arg(long, value_name = "RANK", value_parser = count)]
    lora_r: Option<usize>,
    /// The adapters' output is scaled by alpha / rank [default: 32, or that of --init-adapter]
    #[arg(long, value_name = "ALPHA", value_parser = positive)]
    lora_alpha: Option<f64>,
    /// Dropout of the adapters' inputs, in training [default: 0.05, or that of --init-adapter]
    #[arg(long, value_name = "P", value_parser = dropout)]
    lora_dropout: Option<f64>,
    /// Linear layers that get an adapter: names separated by commas, a regular expression for whole paths, or
    /// `all-linear` [default: query,key,value,dense in the text decoder; q_proj,k_proj,v_proj,out_proj,fc1,fc2 in the
    /// vision encoder where --tune includes it; those of --init-adapter]
    #[arg(long, value_name = "MODULES")]
    target_modules: Option<TargetModules>,
    /// The initialisation of new adapters: `true` and `gaussian` at the base model's outputs; `pissa`, `pissa_niter_N` (N passes,
    /// faster) and `olora` from a decomposition of the weights, saved as LoRA of twice the rank [default: true]
    #[arg(long, value_name = "METHOD", value_parser = peft_value::<InitLoraWeights>)]
    init_lora_weights: Option<InitLoraWeights>,
    /// Scale the adapters' output by alpha / sqrt(rank) (rsLoRA)
    #[arg(long)]
    use_rslora: bool,
    /// Also train the norm of each row of the adapted weights (DoRA): better at low ranks, slower
    #[arg(long)]
    use_dora: bool,
    /// Add a trainable bias to each adapter
    #[arg(long)]
    lora_bias: bool,
    /// Also train biases of the base model, and save them with the adapter: none, all, or lora_only for those of the
    /// adapted layers [default: none, or those of --init-adapter]
    #[arg(long, value_name = "BIASES", value_parser = peft_value::<Bias>)]
    bias: Option<Bias>,
    /// Also train these modules as a whole, and save them with the adapter: names separated by commas
    #[arg(long, value_name = "MODULES", value_delimiter = ',')]
    modules_to_save: Vec<String>,
    /// Begin with an adapter instead of a new one: a local folder, or a hub id, with @ and a revision behind it
    /// if need be; other flags of adapters must agree with it if given, except that --lora-dropout replaces its
    /// dropout
    #[arg(long, value_name = "NAME")]
    init_adapter: Option<PathBuf>,
    /// Dropout of the base model's hidden states and attention, instead of the checkpoint's values
    #[arg(long, value_name = "P", value_parser = dropout)]
    hidden_dropout: Option<f64>,
}

same_fields! {
    LoraFlags => LoraOptions {
        tune,
        lora_r,
        lora_alpha,
        lora_dropout,
        target_modules,
        init_lora_weights,
        use_rslora,
        use_dora,
        lora_bias,
        bias,
        modules_to_save,
        init_adapter,
        hidden_dropout,
    }
}
