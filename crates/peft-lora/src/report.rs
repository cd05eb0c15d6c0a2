use std::collections::BTreeMap;
use std::fmt;

use candle_core::Var;

use crate::weights::AdapterWeights;

/// The layers that a [`LoraBuilder`](crate::LoraBuilder) adapted.
///
/// Displays as the parameter counts and a table of the layers. Layers whose paths differ only in numbers
/// share one row:
///
/// ```text
/// trainable parameters: 1,327,104 of 177,946,170 (0.7458 %)
///     6 x git.encoder.layer.*.attention.output.dense  r 16, alpha 32, scale 2, 24,576 parameters each
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionReport {
    modules: Vec<AdaptedModule>,
    trainable: usize,
    copied: usize,
    base_parameters: usize,
}

/// One adapted layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedModule {
    /// Dotted checkpoint path.
    pub path: String,
    /// The rank.
    pub rank: usize,
    /// The numerator of the scale.
    pub alpha: f64,
    /// The scale of the update.
    pub scale: f64,
    /// Number of elements of `A`, `B` and, where there are any, of DoRA's magnitudes and the bias after `B`.
    pub parameters: usize,
}

impl InjectionReport {
    pub(crate) fn new(weights: &AdapterWeights, base_parameters: usize) -> Self {
        let elements = |parameters: &[(&str, Var)]| parameters.iter().map(|(_, var)| var.elem_count()).sum();
        let mut modules = Vec::new();
        let mut copied = 0;
        for (path, layer) in &weights.layers {
            let parameters: usize = elements(&layer.update.parameters());
            match layer.update.low_rank() {
                Some(low_rank) => modules.push(AdaptedModule {
                    path: path.clone(),
                    rank: low_rank.options.rank,
                    alpha: low_rank.options.alpha,
                    scale: low_rank.scale(),
                    parameters,
                }),
                None => copied += parameters,
            }
        }
        for (path, update) in &weights.others {
            modules.push(AdaptedModule {
                path: path.clone(),
                rank: update.options.rank,
                alpha: update.options.alpha,
                scale: update.options.scale,
                parameters: elements(&update.parameters()),
            });
        }
        modules.sort_by(|one, other| one.path.cmp(&other.path));
        // PEFT trains a copy of each module to save, and the biases of the model itself.
        if !weights.config.modules_to_save.is_empty() {
            copied += weights.parameters.values().map(|var| var.elem_count()).sum::<usize>();
        }
        let trainable = weights.variables().values().map(|var| var.elem_count()).sum();
        Self { modules, trainable, copied, base_parameters }
    }

    pub(crate) fn base_parameters(&self) -> usize {
        self.base_parameters
    }

    /// The adapted layers, in the order of their paths.
    pub fn modules(&self) -> &[AdaptedModule] {
        &self.modules
    }

    /// Number of trainable parameters: the elements of every `A` and `B`, and of all other tensors that the
    /// configuration trains.
    pub fn trainable_parameters(&self) -> usize {
        self.trainable
    }

    /// Number of all parameters, the adapter's included. A tensor shared by two layers counts once. The
    /// numbers equal those of PEFT's `print_trainable_parameters`.
    pub fn total_parameters(&self) -> usize {
        self.base_parameters
            + self.copied
            + self.modules.iter().map(|module| module.parameters).sum::<usize>()
    }

    /// The counts as one line: `1,327,104 of 177,946,170 (0.7458 %)`.
    pub fn summary(&self) -> String {
        let (trainable, total) = (self.trainable_parameters(), self.total_parameters());
        let percent = 100.0 * trainable as f64 / total as f64;
        format!("{} of {} ({percent:.4} %)", grouped(trainable), grouped(total))
    }
}

impl fmt::Display for InjectionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trainable parameters: {}", self.summary())?;
        let mut rows: BTreeMap<(String, String), usize> = BTreeMap::new();
        for module in &self.modules {
            let options = format!(
                "r {}, alpha {}, scale {}, {} parameters each",
                module.rank,
                module.alpha,
                module.scale,
                grouped(module.parameters)
            );
            *rows.entry((without_numbers(&module.path), options)).or_default() += 1;
        }
        let width = rows.keys().map(|(path, _)| path.len()).max().unwrap_or(0);
        rows.iter()
            .try_for_each(|((path, options), count)| write!(f, "\n{count:5} x {path:width$}  {options}"))
    }
}

/// Replaces numbers by stars: `layer.3.query` becomes `layer.*.query`.
fn without_numbers(path: &str) -> String {
    path.split('.')
        .map(|part| if part.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { part })
        .collect::<Vec<_>>()
        .join(".")
}

/// Groups digits: `1327104` becomes `1,327,104`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
