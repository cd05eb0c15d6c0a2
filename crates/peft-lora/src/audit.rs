//! Checks after a model is built: all targets are linear layers, and every entry of the configuration selects
//! something.

use std::collections::BTreeSet;

use crate::error::Unmatched;
use crate::inventory::Inventory;
use crate::matching::{Decision, LayerNumbers, Pattern, Selector, Targets, is_named};
use crate::{Error, Result};

/// The number of the model's names that an error suggests at most.
const MAX_CANDIDATES: usize = 8;

/// Fails if the targets select something that cannot be adapted, or if there is no layer at the output
/// layer's path.
pub(crate) fn check_layers(targets: &Targets, model: &Inventory) -> Result<()> {
    let not_linear = targets_that_are_not_linear(targets, model)?;
    if !not_linear.is_empty() {
        return Err(Error::NotLinear(not_linear));
    }
    let linear = paths(model.linear());
    match targets.output_layer.as_deref().filter(|path| !linear.contains(path)) {
        Some(path) => Err(Error::Unmatched(vec![not_among("output_layer", path, "linear layer", &linear)])),
        None => Ok(()),
    }
}

/// Fails if an entry of the configuration selects nothing. `adapted` are the paths of the adapted layers.
pub(crate) fn check_entries(targets: &Targets, model: &Inventory, adapted: &BTreeSet<&str>) -> Result<()> {
    let linear = model.adaptable();
    // Other modules that are selected here are excluded (else check_layers() would have failed), so their
    // entries have an effect.
    let others = selectable(&targets.targets, model);
    let mut unmatched =
        unmatched_entries("target_modules", &targets.targets, "linear layer", &linear, &others)?;
    if let Some(excluded) = &targets.excluded {
        let mut others = model.other_modules();
        others.extend(paths(model.parameters()));
        let what = "module or parameter";
        unmatched.extend(unmatched_entries("exclude_modules", excluded, what, &linear, &others)?);
    }
    let modules = &linear | &model.other_modules();
    for (name, _) in &targets.saved {
        if !modules.iter().any(|module| module.ends_with(name.as_str())) {
            unmatched.push(not_among("modules_to_save", name, "module", &modules));
        }
    }
    if !unmatched.is_empty() {
        return Err(Error::Unmatched(unmatched));
    }

    if let Some(layers) = &targets.layers {
        unmatched.extend(unmatched_layers(layers, &targets.targets, &linear)?);
    }
    let patterns = targets.ranks.iter().map(|(pattern, _)| pattern);
    for pattern in patterns.chain(targets.alphas.iter().map(|(pattern, _)| pattern)) {
        if !any_matches(pattern, adapted)? {
            unmatched.push(not_among(pattern.option, &pattern.text, "adapted layer", adapted));
        }
    }
    if unmatched.is_empty() { Ok(()) } else { Err(Error::Unmatched(unmatched)) }
}

fn paths(paths: &BTreeSet<String>) -> BTreeSet<&str> {
    paths.iter().map(String::as_str).collect()
}

/// Modules and parameters that `target_modules` selects and that are neither excluded nor linear layers.
fn targets_that_are_not_linear(targets: &Targets, model: &Inventory) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in selectable(&targets.targets, model) {
        if targets.decide(path)? == Decision::Adapted {
            found.push(path.to_owned());
        }
    }
    Ok(found)
}

/// Everything except linear layers that the targets can select: modules, and parameters too for a list of
/// names, since a name that matches a parameter is meant. A regular expression selects modules only.
fn selectable<'a>(targets: &Selector, model: &'a Inventory) -> BTreeSet<&'a str> {
    match targets {
        Selector::AllLinear => BTreeSet::new(),
        Selector::Regex(_) => model.other_modules(),
        Selector::Names(_) => model.other_modules().into_iter().chain(paths(model.parameters())).collect(),
    }
}

/// The entries that select neither a linear layer nor one of `others`.
fn unmatched_entries(
    option: &'static str,
    selector: &Selector,
    what: &'static str,
    linear: &BTreeSet<&str>,
    others: &BTreeSet<&str>,
) -> Result<Vec<Unmatched>> {
    match selector {
        Selector::AllLinear => Ok(Vec::new()),
        Selector::Names(names) => Ok(names
            .iter()
            .filter(|name| !linear.iter().chain(others).any(|path| is_named(path, name)))
            .map(|name| not_among(option, name, what, linear))
            .collect()),
        Selector::Regex(pattern) if any_matches(pattern, linear)? || any_matches(pattern, others)? => {
            Ok(Vec::new())
        }
        Selector::Regex(pattern) => Ok(vec![not_among(option, &pattern.text, what, linear)]),
    }
}

fn unmatched_layers(
    layers: &LayerNumbers,
    targets: &Selector,
    linear: &BTreeSet<&str>,
) -> Result<Vec<Unmatched>> {
    let mut unmatched = Vec::new();
    let mut numbers = BTreeSet::new();
    let mut targeted = BTreeSet::new();
    for &path in linear {
        if targets.selects(path)? {
            targeted.insert(path);
            numbers.extend(layers.number(path)?);
        }
    }
    for pattern in &layers.patterns {
        if !any_matches(pattern, &targeted)? {
            unmatched.push(not_among(pattern.option, &pattern.text, "targeted layer", &targeted));
        }
    }
    let what = match layers.patterns.is_empty() && numbers.is_empty() {
        true => "targeted layer (of a list at the model's root only if layers_pattern names it)",
        false => "targeted layer",
    };
    for number in layers.numbers.iter().filter(|number| !numbers.contains(number)) {
        unmatched.push(Unmatched {
            option: "layers_to_transform",
            pattern: number.to_string(),
            what,
            candidates: numbers.iter().map(ToString::to_string).collect(),
        });
    }
    Ok(unmatched)
}

fn any_matches(pattern: &Pattern, paths: &BTreeSet<&str>) -> Result<bool> {
    for path in paths {
        if pattern.matches(path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reports that `entry` is not among `paths`, and suggests the most similar endings of these, with as many
/// parts as the entry has.
fn not_among(option: &'static str, entry: &str, what: &'static str, paths: &BTreeSet<&str>) -> Unmatched {
    let parts = entry.matches('.').count() + 1;
    let endings: BTreeSet<&str> = paths.iter().map(|path| ending(path, parts)).collect();
    let mut candidates: Vec<&str> = endings.into_iter().collect();
    candidates.sort_by_key(|candidate| strsim::damerau_levenshtein(candidate, entry));
    candidates.truncate(MAX_CANDIDATES);
    Unmatched {
        option,
        pattern: entry.to_owned(),
        what,
        candidates: candidates.into_iter().map(str::to_owned).collect(),
    }
}

/// The last `parts` parts of a dotted path.
fn ending(path: &str, parts: usize) -> &str {
    path.rmatch_indices('.').nth(parts - 1).map_or(path, |(dot, _)| &path[dot + 1..])
}
