//! Decides which layers a configuration adapts, and with which rank and scale. The rules are PEFT's
//! (`check_target_module_exists` and `get_pattern_key`), corner cases included.

use fancy_regex::Regex;

use crate::{Bias, Error, LoraConfig, Modules, Result};

/// The decision about one linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Adapted,
    Excluded,
    NotTargeted,
}

/// Rank and scale of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayerOptions {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) scale: f64,
}

/// The compiled targets of a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    pub(crate) targets: Selector,
    pub(crate) excluded: Option<Selector>,
    pub(crate) layers: Option<LayerNumbers>,
    pub(crate) ranks: Vec<(Pattern, usize)>,
    pub(crate) alphas: Vec<(Pattern, f64)>,
    /// The layer that `all-linear` leaves out.
    pub(crate) output_layer: Option<String>,
    /// Names of `modules_to_save`, each with the pattern of the layers that are not adapted because of it.
    pub(crate) saved: Vec<(String, Pattern)>,
    bias: Bias,
    rank: usize,
    alpha: f64,
    use_rslora: bool,
}

impl Targets {
    /// Checks the configuration and compiles its patterns.
    pub(crate) fn new(config: &LoraConfig) -> Result<Self> {
        config.validate()?;
        let excluded = config.exclude_modules.as_ref().filter(|modules| !modules.is_empty());
        Ok(Self {
            targets: match &config.target_modules {
                Modules::Regex(regex) if regex.eq_ignore_ascii_case("all-linear") => Selector::AllLinear,
                modules => Selector::new("target_modules", modules)?,
            },
            excluded: excluded.map(|modules| Selector::new("exclude_modules", modules)).transpose()?,
            layers: LayerNumbers::new(&config.layers_to_transform, &config.layers_pattern)?,
            ranks: path_patterns("rank_pattern", &config.rank_pattern)?,
            alphas: path_patterns("alpha_pattern", &config.alpha_pattern)?,
            output_layer: None,
            saved: saved_modules(&config.modules_to_save)?,
            bias: config.bias,
            rank: config.r,
            alpha: config.lora_alpha,
            use_rslora: config.use_rslora,
        })
    }

    /// Whether the linear layer at `path` is adapted.
    pub(crate) fn decide(&self, path: &str) -> Result<Decision> {
        if let Some(excluded) = &self.excluded
            && excluded.selects(path)?
        {
            return Ok(Decision::Excluded);
        }
        if self.saves_module(path) || first_match_of(&self.saved, path)? {
            return Ok(Decision::Excluded);
        }
        let targeted = match (&self.targets, &self.layers) {
            (Selector::AllLinear, _) => self.output_layer.as_deref() != Some(path),
            // A layer named by its full path is selected, whatever its number.
            (Selector::Names(names), Some(_)) if names.iter().any(|name| name == path) => true,
            (targets, None) => targets.selects(path)?,
            (targets, Some(layers)) => targets.selects(path)? && layers.contain(path)?,
        };
        Ok(if targeted { Decision::Adapted } else { Decision::NotTargeted })
    }

    /// Whether `modules_to_save` selects the module at `path` or a module that contains it. As in PEFT, a name
    /// selects every path that ends with it, also within a part of the path.
    pub(crate) fn saves_module(&self, path: &str) -> bool {
        let around = path.match_indices('.').map(|(dot, _)| &path[..dot]);
        let mut modules = around.chain([path]);
        modules.any(|module| self.saved.iter().any(|(name, _)| module.ends_with(name)))
    }

    /// Whether the embedding or convolution at `path` is adapted. `all-linear` selects none of them.
    pub(crate) fn adapts_other(&self, path: &str) -> Result<bool> {
        let all_linear = matches!(self.targets, Selector::AllLinear);
        Ok(!all_linear && self.decide(path)? == Decision::Adapted)
    }

    /// Whether the parameter at its full `path`, outside the linear layers, is trained.
    pub(crate) fn trains_parameter(&self, path: &str) -> bool {
        let module = path.rsplit_once('.').map(|(module, _)| module);
        let is_bias = path == "bias" || path.ends_with(".bias");
        module.is_some_and(|module| self.saves_module(module)) || (self.bias == Bias::All && is_bias)
    }

    /// Rank and scale of the layer at `path`.
    pub(crate) fn options(&self, path: &str) -> Result<LayerOptions> {
        let rank = first_match(&self.ranks, path)?.unwrap_or(self.rank);
        let alpha = first_match(&self.alphas, path)?.unwrap_or(self.alpha);
        let denominator = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok(LayerOptions { rank, alpha, scale: alpha / denominator })
    }
}

/// Selects modules by path.
#[derive(Clone, Debug)]
pub(crate) enum Selector {
    AllLinear,
    Names(Vec<String>),
    Regex(Pattern),
}

impl Selector {
    fn new(option: &'static str, modules: &Modules) -> Result<Self> {
        Ok(match modules {
            Modules::Names(names) => Self::Names(names.clone()),
            Modules::Regex(regex) => Self::Regex(Pattern::new(option, regex, format!(r"\A(?:{regex})\z"))?),
        })
    }

    /// Whether the module at `path` is selected, whatever its layer number.
    pub(crate) fn selects(&self, path: &str) -> Result<bool> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| is_named(path, name))),
            Self::Regex(regex) => regex.matches(path),
        }
    }
}

/// Whether `path` is `name` or ends in a dot and `name`.
pub(crate) fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The options `layers_to_transform` and `layers_pattern`.
#[derive(Clone, Debug)]
pub(crate) struct LayerNumbers {
    pub(crate) numbers: Vec<usize>,
    /// Each captures the number in a path. If there are none, the first number of a path is used.
    pub(crate) patterns: Vec<Pattern>,
    any: Pattern,
}

impl LayerNumbers {
    fn new(numbers: &[usize], patterns: &[String]) -> Result<Option<Self>> {
        if numbers.is_empty() {
            return Ok(None);
        }
        let option = "layers_pattern";
        let in_list = |pattern: &String| {
            Pattern::new(option, pattern, format!(r"\A(?:(?:^|.*?\.){pattern}\.(?P<number>\d+)\.)"))
        };
        Ok(Some(Self {
            numbers: numbers.to_vec(),
            patterns: patterns.iter().map(in_list).collect::<Result<_>>()?,
            any: Pattern::new(option, "", r"\A.*?\.[^.]*\.(?P<number>\d+)\.".to_owned())?,
        }))
    }

    fn contain(&self, path: &str) -> Result<bool> {
        Ok(self.number(path)?.is_some_and(|number| self.numbers.contains(&number)))
    }

    /// The layer number in `path`.
    pub(crate) fn number(&self, path: &str) -> Result<Option<usize>> {
        if self.patterns.is_empty() {
            return self.any.number(path);
        }
        for pattern in &self.patterns {
            if pattern.matches(path)? {
                return pattern.number(path);
            }
        }
        Ok(None)
    }
}

/// A regular expression from the configuration, with the option that it came from.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub(crate) option: &'static str,
    pub(crate) text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles `regex`, which contains the user's pattern `text`.
    fn new(option: &'static str, text: &str, regex: String) -> Result<Self> {
        // Compiles `text` alone first, so that an error message quotes the user's pattern.
        let refused = |error: fancy_regex::Error| Error::InvalidOption {
            option,
            problem: format!("`{text}` is not a regular expression: {error}"),
        };
        Regex::new(text).map_err(refused)?;
        let regex = Regex::new(&regex).map_err(refused)?;
        Ok(Self { option, text: text.to_owned(), regex })
    }

    pub(crate) fn matches(&self, path: &str) -> Result<bool> {
        self.regex.is_match(path).map_err(|error| self.failed(path, &error))
    }

    fn number(&self, path: &str) -> Result<Option<usize>> {
        let captures = self.regex.captures(path).map_err(|error| self.failed(path, &error))?;
        Ok(captures.and_then(|captures| captures.name("number")?.as_str().parse().ok()))
    }

    fn failed(&self, path: &str, error: &fancy_regex::Error) -> Error {
        Error::InvalidOption {
            option: self.option,
            problem: format!("`{}` cannot be matched with {path}: {error}", self.text),
        }
    }
}

/// Patterns on the end of a path, each with its value.
fn path_patterns<T: Copy>(option: &'static str, entries: &[(String, T)]) -> Result<Vec<(Pattern, T)>> {
    for (index, (text, _)) in entries.iter().enumerate() {
        if entries[..index].iter().any(|(other, _)| other == text) {
            return Err(Error::InvalidOption {
                option,
                problem: format!("the pattern {text} is given twice"),
            });
        }
    }
    entries
        .iter()
        .map(|(text, value)| Ok((Pattern::new(option, text, format!(r"\A(?:(.*\.)?({text})$)"))?, *value)))
        .collect()
}

/// The names of `modules_to_save` with PEFT's pattern of the layers that are not adapted because of them.
fn saved_modules(names: &[String]) -> Result<Vec<(String, Pattern)>> {
    let option = "modules_to_save";
    let pattern = |name: &String| Pattern::new(option, name, format!(r"\A(?:(^|.*\.){name}($|\..*))"));
    names.iter().map(|name| Ok((name.clone(), pattern(name)?))).collect()
}

fn first_match_of(patterns: &[(String, Pattern)], path: &str) -> Result<bool> {
    for (_, pattern) in patterns {
        if pattern.matches(path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first_match<T: Copy>(patterns: &[(Pattern, T)], path: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if pattern.matches(path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
