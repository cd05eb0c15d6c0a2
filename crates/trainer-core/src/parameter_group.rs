use serde::{Deserialize, Serialize};

use crate::{Error, Parameters, Result, TrainingArguments};

/// Parameters with their own learning rate or weight decay.
///
/// LoRA+ (Hayou, Ghosh and Yu, 2024) is the group `lora_B` with a `lr_ratio` of about 16.
///
/// ```
/// use trainer_core::ParameterGroup;
///
/// let lora_plus = ParameterGroup { lr_ratio: 16.0, ..ParameterGroup::new("lora_B") };
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// The group contains every parameter whose name contains this text.
    pub name_contains: String,
    /// Learning rate of the group as a multiple of the schedule's. Default 1.
    #[serde(default = "one")]
    pub lr_ratio: f64,
    /// Weight decay of the group, which includes its one-dimensional parameters. Default: as outside the group.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl ParameterGroup {
    /// Creates a group with the default settings.
    pub fn new(name_contains: impl Into<String>) -> Self {
        Self { name_contains: name_contains.into(), lr_ratio: one(), weight_decay: None }
    }
}

/// The settings of an optimizer for one parameter.
#[derive(Clone, Debug)]
pub(crate) struct ParameterSettings {
    /// Learning rate as a multiple of the schedule's.
    pub(crate) lr_ratio: f64,
    pub(crate) weight_decay: f64,
    pub(crate) shape: Vec<usize>,
}

impl ParameterSettings {
    /// Returns the settings of every parameter, in order. The first matching group counts; outside all groups, the
    /// arguments' weight decay applies to parameters of more than one dimension.
    ///
    /// # Errors
    /// [`Error::EmptyGroup`] for a group without parameters, or whose parameters all belong to earlier groups.
    pub(crate) fn for_each(arguments: &TrainingArguments, parameters: &Parameters) -> Result<Vec<Self>> {
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
                shape: variable.dims().to_vec(),
            }
        });
        Ok(settings.collect())
    }
}
