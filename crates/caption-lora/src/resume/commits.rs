//! The commits of the hub's repositories that a resumed run used from its beginning.

use std::path::PathBuf;

use anyhow::anyhow;

use crate::finetune::Request;
use crate::hub::{Location, RepoId};
use crate::options::HeldOut;
use crate::run_folder::SavedOptions;
use crate::terminal::one_line;

/// Adds to an error the flags that name the model and the datasets of the resumed run at their commits, if the
/// request names others.
pub fn with_commits(error: anyhow::Error, request: &Request) -> anyhow::Error {
    let Some(resumed) = &request.resumed else { return error };
    let data = &request.options.data;
    let other = |(flag, location): (&str, &Location)| {
        let id = began_with(flag, &resumed.options).map(Location::Hub)?;
        (*location != id).then(|| format!("--{flag} {id}"))
    };
    let held_out = [("validation", &data.validation), ("test", &data.test)].into_iter();
    let held_out = held_out.filter_map(|(flag, part)| match part {
        Some(HeldOut::Dataset(location)) => Some((flag, location)),
        _ => None,
    });
    let inputs = [("dataset", &data.dataset), ("model", &data.model)].into_iter().chain(held_out);
    let flags: Vec<String> = inputs.filter_map(other).collect();
    if flags.is_empty() {
        return error;
    }
    anyhow!("{}; the run began with {}", one_line(&error), flags.join(" and "))
}

/// The hub's repository that the run used from its beginning, at its commit.
pub(crate) fn began_with(flag: &str, options: &SavedOptions) -> Option<RepoId> {
    // From the flag's value, because a folder of the same name may exist by now.
    let id = Location::Local(PathBuf::from(options.flags.value(flag)?)).hidden_id()?;
    let commit = match flag {
        "model" => options.model_commit(&id.name),
        "validation" => options.commits.as_ref()?.validation.clone(),
        "test" => options.commits.as_ref()?.test.clone(),
        _ => options.commits.as_ref()?.dataset.clone(),
    };
    Some(RepoId { revision: Some(commit?), ..id })
}
