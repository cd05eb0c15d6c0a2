//! Fine-tuning as a sequence of stages, each of which is a function or a type:
//!
//! 1. [`Session::claim`]: a locked, writable output folder without files of others in the way;
//! 2. [`Inputs::open`]: the model, the dataset and its split;
//! 3. [`Plan::new`]: the adapted model, the arguments of the training engine, and the run's identity;
//! 4. [`cache_features`]: the image features of a frozen vision encoder, computed once;
//! 5. [`Recipe::train`]: the training run;
//! 6. [`Recipe::judge`]: loss, captions and scores on the test split, before and after;
//! 7. [`Results::write`]: metrics, captions, curves and the report.
//!
//! [`run`] runs all stages for a [`Request`]. [`sweep()`] does so for several requests.

mod caching;
mod eval_captions;
mod folder;
mod identity;
mod inputs;
mod logs;
mod parts;
mod place;
mod plan;
mod recipe;
mod request;
mod results;
mod rows;
mod session;
mod setup;
mod setup_rows;
mod stopping;
mod story;
mod sweep;
mod training;

use anyhow::Result;

pub use caching::cache_features;
pub use folder::OutputFolder;
pub use inputs::Inputs;
pub use plan::Plan;
pub use recipe::Recipe;
pub use request::Request;
pub use results::Results;
pub use session::{INTERRUPTED, Session};
pub use sweep::{SweepRun, sweep};
pub use training::Trained;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All stages are done and all results written.
    Finished,
    /// Stopped by a signal; `--resume` continues it.
    Interrupted,
}

/// Runs all stages.
///
/// # Errors
/// If an input cannot be read or does not fit the others, if training fails, or if a result cannot be
/// written.
pub fn run(request: &Request, session: &mut Session) -> Result<Ending> {
    run_in(session.claim(request)?, request, session)
}

/// Runs all stages except the first.
fn run_in(folder: OutputFolder, request: &Request, session: &mut Session) -> Result<Ending> {
    let (checkpoint, inputs) = session.open(request)?;
    let mut plan = Plan::new(request, &folder, checkpoint, &inputs, session)?;
    plan.print();
    let features = cache_features(request, &folder, &inputs, &mut plan, session)?;
    let recipe = Recipe::new(request, folder, inputs, plan, features);

    let base = recipe.judge_base_beforehand()?;
    let state = match recipe.train(session)? {
        Trained::Finished(state) => state,
        Trained::Interrupted => return Ok(Ending::Interrupted),
    };
    let results = recipe.judge(base)?;
    results.write(&recipe, &state)?;
    Ok(Ending::Finished)
}
