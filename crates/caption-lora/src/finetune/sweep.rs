use std::path::PathBuf;

use anyhow::Result;

use super::folder::PAGE;
use super::session::saved_options;
use super::{Ending, OutputFolder, Request, Session, run_in};
use crate::report::{Run, write_comparison};
use crate::run_folder::{RunRecord, RunState, SavedOptions};
use crate::terminal::say;

/// One run of a sweep.
#[derive(Debug, Clone)]
pub struct SweepRun {
    /// Its distinguishing options: `r-4 lora_alpha-16`.
    pub name: String,
    /// Its output folder, which the request names too.
    pub folder: PathBuf,
    /// The run to begin or to continue; `None` if it is finished.
    pub request: Option<Request>,
}

impl SweepRun {
    /// Whether all results of the run are in its folder.
    pub fn is_finished(&self) -> bool {
        let is_recorded = |record: RunRecord| record.state == RunState::Finished;
        RunRecord::read(&self.folder).is_ok_and(|record| record.is_some_and(is_recorded))
            && Run::read(&self.folder).is_ok()
    }
}

/// Runs a sweep's runs one after another, and compares the results on one page in the sweep's `folder`
/// ([`OutputFolder::claim_for_sweep`]). They share the session, and so the model, the dataset and the image features.
///
/// # Errors
/// The errors of [`run`](super::run), and if the page cannot be written. Unusable output folders are detected
/// before the first run begins.
pub fn sweep(
    request: &Request,
    folder: OutputFolder,
    runs: Vec<SweepRun>,
    session: &mut Session,
) -> Result<Ending> {
    session.sweep_folder = Some(folder.path.clone());
    let saved = saved_options(request, None, None)?;
    let members =
        runs.into_iter().map(|run| Member::new(run, &folder, &saved, session)).collect::<Result<Vec<_>>>()?;

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
    // If every run was finished already, none of them has recorded the sweep.
    folder.begin_sweep(&saved)?;
    if !session.team.leads() {
        return Ok(Ending::Finished);
    }
    let read = |member: &Member| Ok(Run { name: member.name.clone(), ..Run::read(&member.path)? });
    let page = folder.path.join(PAGE);
    let is_written = write_comparison(&members.iter().map(read).collect::<Result<Vec<_>>>()?, &page)?;
    folder.set_state(RunState::Finished)?;
    if is_written {
        say(format_args!("\n{} runs compared in {}", members.len(), page.display()));
    }
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
    fn new(run: SweepRun, sweep: &OutputFolder, saved: &SavedOptions, session: &Session) -> Result<Self> {
        let SweepRun { name, folder: path, request } = run;
        let claim = |request: Request| -> Result<(Request, OutputFolder)> {
            let output = session.claim(&request)?.within(sweep, saved);
            Ok((request, output))
        };
        Ok(Self { name, path, left: request.map(claim).transpose()? })
    }
}
