use serde::{Deserialize, Serialize};

use crate::{Error, Parameters, Result, TrainingArguments};

/// Parameters that are trained otherwise than the rest.
///
/// LoRA+ (Hayou, Ghosh and Yu, 2024) is the group `lora_B` with a `lr_ratio` of about 16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// The group has every parameter whose name contains this text.
    pub name_contains: String,
    /// The group's learning rate, as a multiple of the schedule's. Default 1.
    #[serde(default = "one")]
    pub lr_ratio: f64,
    /// The group's weight decay, of parameters of one dimension too. Default: that of the other parameters.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// How one parameter is trained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ParameterSettings {
    /// Its learning rate, as a multiple of the schedule's.
    pub(crate) lr_ratio: f64,
    /// Its weight decay.
    pub(crate) weight_decay: f64,
}

impl ParameterSettings {
    /// The settings of every parameter, in their order: those of the first group that matches it, and otherwise the
    /// arguments' weight decay for all but parameters of one dimension.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`] for a group that no parameter is in, or only such as earlier groups have.
    pub(crate) fn of_each(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Vec<Self>> {
        let groups = &arguments.parameter_groups;
        let group_of = |name: &str| groups.iter().position(|group| name.contains(&group.name_contains));
        for (index, group) in groups.iter().enumerate() {
            if !parameters.iter().any(|(name, _)| group_of(name) == Some(index)) {
                let names = parameters.iter().map(|(name, _)| name.to_owned()).collect();
                return Err(Error::EmptyGroup { name_contains: group.name_contains.clone(), names });
            }
        }
        let settings = parameters.iter().map(|(name, variable)| {
            let decay = if variable.rank() > 1 { arguments.weight_decay } else { 0.0 };
            let group = group_of(name).map(|index| &groups[index]);
            Self {
                lr_ratio: group.map_or(1.0, |group| group.lr_ratio),
                weight_decay: group.and_then(|group| group.weight_decay).unwrap_or(decay),
            }
        });
        Ok(settings.collect())
    }
}
