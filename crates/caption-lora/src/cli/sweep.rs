use std::ffi::OsString;

use anyhow::Result;
use trainer_core::SavedCheckpoint;

use super::Request;
use super::grid::runs;
use super::resume::trains_longer;
use crate::finetune::{self, Ending, Session, SweepRun};
use crate::resume::ResumedSweep;
use crate::shell::with_path;

/// Runs the sweep of a command line, or continues it.
///
/// # Errors
/// As [`finetune::sweep()`].
pub fn sweep(request: &finetune::Request, session: &mut Session) -> Result<Ending> {
    let folder = session.claim_for_sweep(request)?;
    let begun = runs(request, &folder.path)?.into_iter();
    let left = begun.map(|run| match &request.resumed_sweep {
        Some(resumed) => left(run, request, resumed),
        None => Ok(run),
    });
    let left = left.collect::<Result<Vec<_>>>()?;
    finetune::sweep(request, folder, left, session)
}

/// The remaining work of a run of a resumed `sweep`.
fn left(run: SweepRun, sweep: &finetune::Request, resumed: &ResumedSweep) -> Result<SweepRun> {
    if run.is_finished() && !trains_longer(&resumed.given) {
        return Ok(SweepRun { request: None, ..run });
    }
    if SavedCheckpoint::list(&run.folder)?.iter().any(|checkpoint| checkpoint.run.is_some()) {
        let line = [OsString::from("pokemon_finetune"), with_path("--resume=", &run.folder)];
        let request = Request::parse(line.into_iter().chain(resumed.given.given_arguments()))?;
        return Ok(SweepRun { request: Some(request.resolve()?), ..run });
    }
    let request = run.request.map(|mut request| {
        // The run may have begun without reaching a checkpoint.
        request.options.data.overwrite_output_dir = true;
        // The sweep's commits of the hub, which the flags do not have.
        request.options.data.model.clone_from(&sweep.options.data.model);
        request.options.data.dataset.clone_from(&sweep.options.data.dataset);
        request.options.data.validation.clone_from(&sweep.options.data.validation);
        request.options.data.test.clone_from(&sweep.options.data.test);
        request
    });
    Ok(SweepRun { request, ..run })
}
