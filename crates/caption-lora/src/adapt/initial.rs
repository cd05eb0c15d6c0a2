//! The initial adapter of a run, and the check that the flags agree with it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use peft_lora::{LoraConfig, Modules};

use super::{BaseModel, modules};
use crate::hub::{self, Location};
use crate::open::{self, AdapterFolder};
use crate::options::LoraOptions;
use crate::terminal::warn;

/// The adapter of `--init-adapter`, downloaded if it is on the hub. Warns if it was trained on another commit of
/// the base model.
pub(super) fn open(path: &Path, base: &BaseModel<'_>) -> Result<AdapterFolder> {
    let location = match path.to_str().map(str::parse::<Location>) {
        Some(Ok(location)) => location,
        Some(Err(hub::Error::NoSuchLocation { text, folder })) => {
            let place = if path.is_absolute() { String::new() } else { format!(" in {}", folder.display()) };
            bail!(
                "--init-adapter {text}: there is no such folder{place}, and no hub id looks like that: give the folder of \
                 an adapter, or owner/name for one of the hub"
            )
        }
        Some(Err(error)) => bail!("--init-adapter {}: {error}", path.display()),
        // A hub id is text.
        None => Location::Local(path.to_owned()),
    };
    let adapter = open::adapter(&location, "--init-adapter")?;
    if let Some(warning) = open::another_base(&adapter.dir, base.name, base.revision) {
        warn(warning);
    }
    Ok(adapter)
}

/// The configuration of the adapter in a folder.
pub(super) fn config(dir: &Path) -> Result<LoraConfig> {
    let path = dir.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not an adapter's configuration", path.display()))
}

/// The configuration of a run's initial adapter, if the flags agree with it.
pub(super) fn agreed(
    mut config: LoraConfig,
    adapter: &Path,
    base: &BaseModel<'_>,
    options: &LoraOptions,
) -> Result<LoraConfig> {
    let adapter = adapter.display();
    for (flag, given, found) in [
        ("--lora-r", options.lora_r.map(|r| r as f64), config.r as f64),
        ("--lora-alpha", options.lora_alpha, config.lora_alpha),
    ] {
        if let Some(given) = given
            && given != found
        {
            bail!("{flag} {given} disagrees with the adapter {adapter}, which has {found}");
        }
    }
    if let Some(given) = options.target_modules.clone().map(modules)
        && !same_modules(&given, &config.target_modules)
    {
        let (given, found) = (listed(&given), listed(&config.target_modules));
        bail!(
            "--target-modules {given} disagrees with the adapter {adapter}, which has {found}: leave it out"
        );
    }
    for (flag, given, agrees) in [
        ("--use-rslora", options.use_rslora, config.use_rslora),
        ("--use-dora", options.use_dora, config.use_dora),
        ("--lora-bias", options.lora_bias, config.lora_bias),
        ("--bias", options.bias.is_some(), options.bias == Some(config.bias)),
        (
            "--modules-to-save",
            !options.modules_to_save.is_empty(),
            options.modules_to_save == config.modules_to_save,
        ),
        ("--init-lora-weights", options.init_lora_weights.is_some(), false),
    ] {
        if given && !agrees {
            bail!("{flag} disagrees with the adapter {adapter}, whose own setting is kept: leave it out");
        }
    }
    config.lora_dropout = options.lora_dropout.unwrap_or(config.lora_dropout);
    if config.base_model_name_or_path.as_deref() == Some(base.name) && base.revision.is_some() {
        config.revision = base.revision.map(str::to_owned);
    }
    Ok(config)
}

/// Whether two selections of layers are the same, whatever the order of their names.
pub fn same_modules(one: &Modules, other: &Modules) -> bool {
    match (one, other) {
        (Modules::Names(one), Modules::Names(other)) => {
            one.iter().collect::<BTreeSet<_>>() == other.iter().collect::<BTreeSet<_>>()
        }
        _ => one == other,
    }
}

fn listed(modules: &Modules) -> String {
    match modules {
        Modules::Names(names) => names.join(","),
        Modules::Regex(pattern) => pattern.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initial_adapter_that_is_neither_folder_nor_hub_id_is_named_with_its_flag() {
        let base = BaseModel { name: "a/b", revision: None };
        let here = std::env::current_dir().unwrap();
        for (path, words) in [
            ("nope", format!("--init-adapter nope: there is no such folder in {}", here.display())),
            ("/no/such/adapter", "--init-adapter /no/such/adapter: there is no such folder, and".to_owned()),
            ("embedded", "--init-adapter: there is no embedded adapter".to_owned()),
        ] {
            let message = open(Path::new(path), &base).unwrap_err().to_string();
            assert!(message.contains(&words), "{message}");
        }
    }

    #[test]
    fn target_modules_agree_with_an_adapter_in_any_order() {
        let base = BaseModel { name: "a/b", revision: None };
        let saved = LoraConfig { target_modules: ["query", "value"].into(), ..LoraConfig::default() };
        let begun = |modules: &str| {
            let target_modules = Some(modules.parse().unwrap());
            let options = LoraOptions { target_modules, ..LoraOptions::default() };
            agreed(saved.clone(), Path::new("x"), &base, &options)
        };
        assert_eq!(begun("value,query").unwrap().target_modules, saved.target_modules);
        let message = begun("query").unwrap_err().to_string();
        assert!(message.contains("--target-modules query disagrees"), "{message}");
        assert!(message.contains("the adapter x, which has query,value"), "{message}");
    }
}
