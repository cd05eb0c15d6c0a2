//! Fine-tunes GIT with LoRA on captioned pictures, and shows its captions before and after.
//!
//! Without arguments it runs the whole recipe on a small model and on drawings that come with this repository. On the
//! real ones:
//!
//! ```text
//! cargo run --release --example pokemon_finetune -- --model microsoft/git-base --dataset reach-vb/pokemon-blip-captions
//! ```
#![allow(clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use caption_lora::cli;
use caption_lora::finetune::{Ending, INTERRUPTED, Plan, Recipe, Request, Session, Trained, cache_features};
use caption_lora::terminal::one_line;

fn main() -> ExitCode {
    match run(cli::Request::from_command_line()) {
        Ok(Ending::Finished) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(request: cli::Request) -> Result<Ending> {
    // With --resume, the flags of the run that is continued.
    let request = request.resolve()?;
    // Sets the number of threads and the Ctrl-C handler, after which a run finishes its step and saves; under
    // mpirun it joins the other processes.
    let session = Session::start(&request.options.hardware)?;
    session.run(|session| {
        if request.sweep.is_empty() { fine_tune(&request, session) } else { cli::sweep(&request, session) }
    })
}

/// One run, stage by stage.
fn fine_tune(request: &Request, session: &mut Session) -> Result<Ending> {
    // The output folder, which is locked while the run writes to it.
    let folder = session.claim(request)?;
    // Opens the model and the dataset, checks every row, and splits the rows 80/10/10.
    let (checkpoint, inputs) = session.open(request)?;
    // Adapts the model: frozen layers, with LoRA in the text decoder unless flags say otherwise.
    let mut plan = Plan::new(request, &folder, checkpoint, &inputs, session)?;
    plan.print();
    // The vision encoder is frozen, so the features of each picture are computed once.
    let features = cache_features(request, &folder, &inputs, &mut plan, session)?;
    let recipe = Recipe::new(request, folder, inputs, plan, features);

    // 15 epochs with an evaluation and a checkpoint after each; the best one is used at the end.
    let base = recipe.judge_base_beforehand()?;
    let state = match recipe.train(session)? {
        Trained::Finished(state) => state,
        Trained::Interrupted => return Ok(Ending::Interrupted),
    };
    // Loss, captions and their scores on the test split, with and without the adapter.
    let results = recipe.judge(base)?;
    results.write(&recipe, &state)?;
    Ok(Ending::Finished)
}
