use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Options that may differ between the runs of a sweep, by their names in Hugging Face's classes. The model,
/// the data and the split are the same for all runs, which share the image features.
const SWEPT: [&str; 17] = [
    "bias",
    "gradient_accumulation_steps",
    "hidden_dropout",
    "init_lora_weights",
    "learning_rate",
    "lora_alpha",
    "lora_dropout",
    "lora_r",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "seed",
    "warmup_ratio",
    "weight_decay",
    "r",
];

/// One option of a sweep and its values. As text: `lora_alpha=16,32`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// The option's name, in snake case.
    pub name: String,
    /// Its values, as on the command line.
    pub values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, values)) = text.split_once('=') else {
            return Err("needs a name and values: lora_alpha=16,32".into());
        };
        let name = name.trim_start_matches("--").replace('-', "_");
        if !SWEPT.contains(&name.as_str()) {
            return Err(format!("`{name}` cannot be swept; these can: {}", SWEPT.join(", ")));
        }
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if values.iter().any(String::is_empty) {
            return Err("has an empty value".into());
        }
        Ok(Self { name, values })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.values.join(","))
    }
}

impl Axis {
    /// Every combination of the values, one for each run of a sweep; the last axis varies fastest. Empty
    /// without axes.
    pub fn grid(axes: &[Self]) -> Vec<SweepPoint> {
        if axes.is_empty() {
            return Vec::new();
        }
        let first = vec![SweepPoint { values: Vec::new() }];
        axes.iter().fold(first, |points, axis| {
            let with = |point: &SweepPoint, value: &String| {
                let mut point = point.clone();
                point.values.push((axis.name.clone(), value.clone()));
                point
            };
            points.iter().flat_map(|point| axis.values.iter().map(move |value| with(point, value))).collect()
        })
    }

    /// The names of the folders of a sweep's runs, in the order of the runs.
    pub fn folders(axes: &[Self]) -> Vec<String> {
        Self::grid(axes).iter().map(SweepPoint::folder).collect()
    }
}

/// One combination of the values of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepPoint {
    /// The name and the value of each swept option.
    pub values: Vec<(String, String)>,
}

impl SweepPoint {
    /// The name of its run: `r-4 lora_alpha-16`.
    pub fn name(&self) -> String {
        self.joined(" ")
    }

    /// The name of its run's folder: `r-4_lora_alpha-16`.
    pub fn folder(&self) -> String {
        self.joined("_")
    }

    fn joined(&self, by: &str) -> String {
        let labels: Vec<String> = self.values.iter().map(|(name, value)| format!("{name}-{value}")).collect();
        labels.join(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_every_combination_and_the_last_axis_varies_fastest() {
        let axes = ["r=4,8", "lora-alpha=16,32"].map(|axis| axis.parse::<Axis>().unwrap());
        assert_eq!(axes[1].to_string(), "lora_alpha=16,32");
        let names: Vec<String> = Axis::grid(&axes).iter().map(SweepPoint::name).collect();
        assert_eq!(
            names,
            ["r-4 lora_alpha-16", "r-4 lora_alpha-32", "r-8 lora_alpha-16", "r-8 lora_alpha-32"]
        );
        assert_eq!(Axis::folders(&axes)[3], "r-8_lora_alpha-32");
        assert!(Axis::folders(&[]).is_empty());
    }
}
