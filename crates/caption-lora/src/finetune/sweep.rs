use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use trainer_core::SavedCheckpoint;

use super::folder::PAGE;
use super::session::saved_options;
use super::{Ending, OutputFolder, Session, run_in};
use crate::cli::{Request, SweepRun};
use crate::report::{Run, write_comparison};
use crate::resume::{Resumed, ResumedSweep};
use crate::run_folder::{RunRecord, RunState, SavedOptions};
use crate::terminal::say;

/// Runs a grid of options one after another, and compares the results on one page. A sweep that is resumed
/// keeps its finished runs, continues those with a checkpoint, and begins the others.
///
/// # Errors
/// Those of [`run`](super::run), and if the page cannot be written. Unusable output folders are detected
/// before the first run begins.
pub fn sweep(request: &Request, session: &mut Session) -> Result<Ending> {
    let folder = OutputFolder::claim_for_sweep(request)?;
    session.sweep_folder = Some(folder.path.clone());
    let saved = saved_options(request, None, None)?;
    let members = request.sweep(&folder.path)?.into_iter();
    let members =
        members.map(|run| Member::new(run, request, &folder, &saved)).collect::<Result<Vec<_>>>()?;

    for (number, member) in (1..).zip(&members) {
        let heading = format!("\nrun {number} of {}: {}", members.len(), member.name);
        let Some((request, output)) = &member.left else {
            say(format_args!("{heading} (finished)"));
            continue;
        };
        say(heading);
        if run_in(output.clone(), request, session)? == Ending::Interrupted {
            folder.set_state(RunState::Interrupted)?;
            return Ok(Ending::Interrupted);
        }
    }
    // If every run was finished before, none of them has begun the sweep.
    folder.begin_sweep(&saved)?;
    let read = |member: &Member| Ok(Run { name: member.name.clone(), ..Run::read(&member.path)? });
    let page = folder.path.join(PAGE);
    write_comparison(&members.iter().map(read).collect::<Result<Vec<_>>>()?, &page)?;
    folder.set_state(RunState::Finished)?;
    say(format_args!("\n{} runs compared in {}", members.len(), page.display()));
    Ok(Ending::Finished)
}

/// A run of the sweep.
struct Member {
    name: String,
    path: PathBuf,
    /// The remaining work, with the locked folder; `None` if the run is finished.
    left: Option<(Request, OutputFolder)>,
}

impl Member {
    fn new(run: SweepRun, sweep: &Request, folder: &OutputFolder, saved: &SavedOptions) -> Result<Self> {
        let SweepRun { name, request } = run;
        let path = request.options.data.output_dir.clone().unwrap_or_default();
        let left = match &sweep.resumed_sweep {
            Some(resumed) => left(request, sweep, resumed, &path)?,
            None => Some(request),
        };
        let claim = |request: Request| -> Result<(Request, OutputFolder)> {
            let output = OutputFolder::claim(&request)?.within(folder, saved);
            Ok((request, output))
        };
        Ok(Self { name, path, left: left.map(claim).transpose()? })
    }
}

/// The remaining part of a resumed sweep's run, where `request` is the whole run; `None` if it is finished.
fn left(
    mut request: Request,
    sweep: &Request,
    resumed: &ResumedSweep,
    path: &Path,
) -> Result<Option<Request>> {
    if is_finished(path) && !resumed.trains_longer() {
        return Ok(None);
    }
    if SavedCheckpoint::list(path)?.iter().any(|checkpoint| checkpoint.run.is_some()) {
        let mut folder = OsString::from("--resume=");
        folder.push(path);
        let line = [OsString::from("pokemon_finetune"), folder];
        let request = Request::parse(line.into_iter().chain(resumed.given.given_arguments()))?;
        return Resumed::find(request).map(Some);
    }
    // It may have begun without reaching a checkpoint.
    request.options.data.overwrite_output_dir = true;
    // The sweep's commits of the hub, which the flags do not have.
    request.options.data.model.clone_from(&sweep.options.data.model);
    request.options.data.dataset.clone_from(&sweep.options.data.dataset);
    Ok(Some(request))
}

/// Whether all results of a run are in its folder.
fn is_finished(path: &Path) -> bool {
    let is_recorded = |record: RunRecord| record.state == RunState::Finished;
    RunRecord::read(path).is_ok_and(|record| record.is_some_and(is_recorded)) && Run::read(path).is_ok()
}
