//! Models and datasets whose location has changed since the run began: a path that no longer exists, or a
//! branch of the hub with new commits.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use clap::error::{ContextKind, Error, ErrorKind};

use super::finetune::FinetuneFlags;
use crate::hub::Location;
use crate::options::{Finetune, Flags, HeldOut};
use crate::resume::commits::began_with;
use crate::run_folder::SavedOptions;

/// The flags of a model and a dataset.
const FLAGS: [&str; 2] = ["dataset", "model"];

/// The error for a model or a dataset of the run in `folder` whose path no longer exists, instead of clap's
/// `error` about its flag. `given` are the flags of the command line.
pub(super) fn gone_path(
    error: &Error,
    given: &Flags,
    options: &SavedOptions,
    folder: &Path,
) -> Option<Error> {
    let argument = error.get(ContextKind::InvalidArg)?.to_string();
    let flag = argument.split(' ').next()?.trim_start_matches('-');
    let flag = FLAGS.into_iter().find(|name| *name == flag && !given.is_given(name))?;
    let place = options.directory.join(options.flags.value(flag)?);
    if place.exists() { None } else { gone(flag, options, folder) }
}

/// The error for a folder that no longer exists and whose name `owner/name` would now be read as that of a
/// repository of the hub.
pub(super) fn gone_folder(
    continued: &Finetune,
    given: &Flags,
    options: &SavedOptions,
    folder: &Path,
) -> Option<Error> {
    let commits = options.commits.as_ref()?;
    let data = &continued.data;
    let inputs = [("dataset", &data.dataset, &commits.dataset), ("model", &data.model, &commits.model)];
    let is_gone = |(flag, location, commit): &(&str, &Location, &Option<String>)| {
        matches!(location, Location::Hub(_)) && commit.is_none() && !given.is_given(flag)
    };
    let (flag, ..) = inputs.into_iter().find(is_gone)?;
    gone(flag, options, folder)
}

fn gone(flag: &str, options: &SavedOptions, folder: &Path) -> Option<Error> {
    let place = PathBuf::from(options.flags.value(flag)?);
    let problem = if place.is_absolute() {
        "which is not there any more".to_owned()
    } else {
        format!("and {} has no {} any more", options.directory.display(), place.display())
    };
    let message = format!(
        "the run in {} was begun with --{flag} {}, {problem}: give --{flag} and its new place",
        folder.display(),
        place.display()
    );
    Some(FinetuneFlags::command().error(ErrorKind::ValueValidation, message))
}

/// Sets the model and the datasets to the hub's commits that the run began with, since a branch may have moved.
/// A location that the command line gives (`given`) is unchanged.
pub(super) fn pin(continued: &mut Finetune, given: &Flags, options: &SavedOptions) {
    let data = &mut continued.data;
    for (flag, location) in [("dataset", &mut data.dataset), ("model", &mut data.model)] {
        if let Some(id) = began_with(flag, options).filter(|_| !given.is_given(flag)) {
            *location = Location::Hub(id);
        }
    }
    for (flag, part) in [("validation", &mut data.validation), ("test", &mut data.test)] {
        if let Some(id) = began_with(flag, options).filter(|_| !given.is_given(flag)) {
            *part = Some(HeldOut::Dataset(Location::Hub(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Request;
    use crate::run_folder::Commits;

    const DATASET: &str = "someone/drawings@main";

    fn saved(commits: Option<Commits>) -> SavedOptions {
        SavedOptions {
            version: "0.1.0".into(),
            command: "pokemon_finetune".into(),
            directory: "/home/me".into(),
            flags: request("").flags,
            adapter_config: None,
            commits,
            sweep: Vec::new(),
        }
    }

    fn request(more: &str) -> Request {
        let line = format!("pokemon_finetune --dataset {DATASET} {more}");
        Request::parse(line.split_whitespace()).unwrap()
    }

    #[test]
    fn a_branch_is_replaced_by_the_commit_of_the_run() {
        let commits = Commits { dataset: Some("0f3c".into()), ..Commits::default() };
        let mut continued = request("").options;
        pin(&mut continued, &Flags::default(), &saved(Some(commits.clone())));
        assert_eq!(continued.data.dataset.to_string(), "someone/drawings@0f3c");
        assert_eq!(continued.data.model, Location::Embedded);
        let mut given = request("");
        let flags = given.flags.clone();
        pin(&mut given.options, &flags, &saved(Some(commits)));
        assert_eq!(given.options.data.dataset.to_string(), DATASET);
        // An earlier version recorded no commit.
        let mut earlier = request("");
        pin(&mut earlier.options, &Flags::default(), &saved(None));
        assert_eq!(earlier.options.data.dataset.to_string(), DATASET);
    }

    #[test]
    fn a_folder_that_is_gone_is_no_repository() {
        let was_local = saved(Some(Commits::default()));
        let gone = |options: &SavedOptions, given: &Flags| {
            let error = gone_folder(&request("").options, given, options, Path::new("runs/x"))?;
            Some(error.to_string())
        };
        let message = gone(&was_local, &Flags::default()).unwrap();
        let text = format!("was begun with --dataset {DATASET}, and /home/me has no {DATASET} any more");
        assert!(message.contains(&text) && message.contains("give --dataset and its new place"), "{message}");
        assert_eq!(gone(&was_local, &request("").flags), None);
        assert_eq!(gone(&saved(None), &Flags::default()), None);
        let was_hub = Commits { dataset: Some("0f3c".into()), ..Commits::default() };
        assert_eq!(gone(&saved(Some(was_hub)), &Flags::default()), None);
    }
}
