use super::{DataOptions, Hardware, LoraOptions, OptimizerOptions, RunOptions, TrainingOptions};
use crate::hub::Location;

/// The options of a fine-tuning run. The default is the recipe: the embedded model, with LoRA, on the embedded drawings.
///
/// ```
/// use caption_lora::options::{DataOptions, Finetune};
///
/// let recipe = Finetune::default();
/// assert_eq!((recipe.training.num_train_epochs, recipe.lora.rank()), (15.0, 16));
/// assert_eq!(recipe.learning_rate(), 1e-3); // of the embedded model
///
/// let data = DataOptions { model: "microsoft/git-base".parse()?, ..Default::default() };
/// assert_eq!(Finetune { data, ..Default::default() }.learning_rate(), 5e-5);
/// # Ok::<(), caption_lora::hub::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Finetune {
    /// Inputs and outputs.
    pub data: DataOptions,
    /// Length, learning rate and batches.
    pub training: TrainingOptions,
    /// The optimizer and its schedule.
    pub optimizer: OptimizerOptions,
    /// When to evaluate, save and end.
    pub run: RunOptions,
    /// Which parameters are trained.
    pub lora: LoraOptions,
    /// Hardware and precision.
    pub hardware: Hardware,
}

impl Finetune {
    /// The highest learning rate: [`TrainingOptions::learning_rate`], else the recipe's 5e-5. The embedded
    /// model needs 1e-3, because an adapter's effect grows with the width of its layers, which are narrow
    /// there.
    pub fn learning_rate(&self) -> f64 {
        let default = if self.data.model == Location::Embedded { 1e-3 } else { 5e-5 };
        self.training.learning_rate.unwrap_or(default)
    }

    /// The seed of the order of the training rows; `None` for the same order in every epoch.
    pub fn shuffle(&self) -> Option<u64> {
        (!self.data.no_shuffle).then_some(self.training.seed)
    }
}
