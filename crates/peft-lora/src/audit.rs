//! After a model is built: did every entry of the configuration select something?

use std::collections::BTreeSet;

use crate::error::Unmatched;
use crate::inventory::Inventory;
use crate::matching::{Decision, LayerNumbers, Pattern, Selector, Targets, is_named};
use crate::{Error, Result};

/// How many of the model's names are shown where one was not found.
const MAX_CANDIDATES: usize = 8;

/// Fails where an entry of the configuration selects nothing, or what cannot be adapted. `adapted` are the paths of the
/// layers that got an adapter.
pub(crate) fn audit(targets: &Targets, model: &Inventory, adapted: &BTreeSet<&str>) -> Result<()> {
    let linear: BTreeSet<&str> = model.linear().iter().map(String::as_str).collect();
    let not_linear = targets_that_are_not_linear(targets, model)?;
    if !not_linear.is_empty() {
        return Err(Error::NotLinear(not_linear));
    }

    let mut unmatched = Vec::new();
    if let Some(output_layer) = targets.output_layer.as_deref().filter(|path| !linear.contains(path)) {
        unmatched.push(not_among("output_layer", output_layer, "linear layer", &linear));
    }
    unmatched.extend(unmatched_entries("target_modules", &targets.targets, &linear)?);
    if let Some(excluded) = &targets.excluded {
        unmatched.extend(unmatched_entries("exclude_modules", excluded, &linear)?);
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
    match (unmatched.is_empty(), adapted.is_empty()) {
        (false, _) => Err(Error::Unmatched(unmatched)),
        (true, true) => Err(Error::NothingSelected),
        (true, false) => Ok(()),
    }
}

/// Modules and parameters that `target_modules` selects, are not excluded, and are no linear layers.
fn targets_that_are_not_linear(targets: &Targets, model: &Inventory) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if matches!(targets.targets, Selector::AllLinear) {
        return Ok(found);
    }
    for module in model.other_modules() {
        if targets.decide(module)? == Decision::Adapted {
            found.push(module.to_owned());
        }
    }
    if let Selector::Names(names) = &targets.targets {
        let named = |path: &&String| names.iter().any(|name| is_named(path, name));
        found.extend(model.parameters().iter().filter(named).cloned());
    }
    Ok(found)
}

fn unmatched_entries(
    option: &'static str,
    selector: &Selector,
    linear: &BTreeSet<&str>,
) -> Result<Vec<Unmatched>> {
    match selector {
        Selector::AllLinear => Ok(Vec::new()),
        Selector::Names(names) => Ok(names
            .iter()
            .filter(|name| !linear.iter().any(|path| is_named(path, name)))
            .map(|name| not_among(option, name, "linear layer", linear))
            .collect()),
        Selector::Regex(pattern) if any_matches(pattern, linear)? => Ok(Vec::new()),
        Selector::Regex(pattern) => Ok(vec![not_among(option, &pattern.text, "linear layer", linear)]),
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

/// The finding that `entry` is not among `paths`, with the endings of these that look most like it: as many parts of
/// a path as the entry has.
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
