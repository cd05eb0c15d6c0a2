//! Options that change what an adapter does to a layer, and the combinations of them that are possible.

use serde::{Deserialize, Serialize};

use crate::{Error, InitLoraWeights, LoraConfig, Result};

/// Biases of the base model that are trained with an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// No bias.
    #[default]
    None,
    /// All parameters of the model whose name is `bias`.
    All,
    /// The biases of the adapted layers.
    LoraOnly,
}

impl LoraConfig {
    /// The configuration in files. PiSSA and OLoRA are saved as plain LoRA of twice the rank and the same scale.
    pub(crate) fn for_files(&self) -> Self {
        if !self.init_lora_weights.changes_base() {
            return self.clone();
        }
        let doubled = |(pattern, rank): &(String, usize)| (pattern.clone(), 2 * rank);
        let doubled_alpha = |(pattern, alpha): &(String, f64)| (pattern.clone(), 2.0 * alpha);
        Self {
            r: 2 * self.r,
            lora_alpha: self.lora_alpha * if self.use_rslora { 2f64.sqrt() } else { 2.0 },
            rank_pattern: self.rank_pattern.iter().map(doubled).collect(),
            alpha_pattern: self.alpha_pattern.iter().map(doubled_alpha).collect(),
            init_lora_weights: InitLoraWeights::Default,
            ..self.clone()
        }
    }

    /// Checks combinations of options that change what an adapter does.
    pub(crate) fn validate_variants(&self) -> Result<()> {
        let refuse =
            |option, problem: &str| Err(Error::InvalidOption { option, problem: problem.to_owned() });
        if self.lora_bias && self.use_dora {
            return refuse("lora_bias", "cannot be combined with use_dora");
        }
        if self.lora_bias
            && !matches!(self.init_lora_weights, InitLoraWeights::Default | InitLoraWeights::Random)
        {
            return refuse("lora_bias", "needs init_lora_weights to be true or false");
        }
        if self.init_lora_weights.changes_base() && self.use_dora {
            return refuse(
                "use_dora",
                "cannot be combined with PiSSA or OLoRA, whose adapters are saved as LoRA without DoRA's magnitudes",
            );
        }
        let patterns = !self.rank_pattern.is_empty() || !self.alpha_pattern.is_empty();
        if self.init_lora_weights.changes_base() && self.use_rslora && patterns {
            return refuse(
                "use_rslora",
                "with rank_pattern or alpha_pattern cannot be combined with PiSSA or OLoRA, since such adapters cannot be saved",
            );
        }
        let alphas = self.alpha_pattern.iter().map(|(_, alpha)| *alpha);
        if self.init_lora_weights.changes_base() && alphas.chain([self.lora_alpha]).any(|alpha| alpha < 0.0) {
            return refuse("lora_alpha", "must be positive with PiSSA and OLoRA");
        }
        if self.bias == Bias::All && !self.modules_to_save.is_empty() {
            return refuse(
                "bias",
                "\"all\" cannot be combined with modules_to_save: name the modules of the biases there, \
                 or use \"lora_only\"",
            );
        }
        if self.modules_to_save.iter().any(String::is_empty) {
            return refuse("modules_to_save", "holds an empty name");
        }
        Ok(())
    }
}
