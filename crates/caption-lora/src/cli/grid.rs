//! The runs of a sweep: one for each combination of its values.

use std::path::Path;

use clap::error::Error;

use super::request::Request;
use crate::finetune::{self, SweepRun};
use crate::options::Axis;
use crate::shell::{finetune_program, with_path};

/// The runs of `--sweep`, each from its beginning and in its own folder below `output_dir`. Empty without
/// `--sweep`.
///
/// # Errors
/// If a value is not valid for its flag, or if a flag is both swept and given.
pub(super) fn runs(request: &finetune::Request, output_dir: &Path) -> Result<Vec<SweepRun>, Error> {
    let mut arguments = vec![finetune_program()];
    arguments.extend(request.flags.given_arguments());
    if request.options.data.overwrite_output_dir {
        arguments.push("--overwrite-output-dir".into());
    }
    let points = Axis::grid(&request.sweep).into_iter();
    let run = points.map(|point| {
        // Parsed like a typed command line, so that all checks of flags apply to sweeps.
        let mut line = arguments.clone();
        for (name, value) in &point.values {
            let flag = if name == "r" { "lora_r" } else { name };
            line.push(format!("--{}={value}", flag.replace('_', "-")).into());
        }
        let folder = output_dir.join(point.folder());
        line.push(with_path("--output-dir=", &folder));
        let request = Some(Request::checked(line)?.begin());
        Ok(SweepRun { name: point.name(), folder, request })
    });
    run.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Finetune;

    fn options(run: &SweepRun) -> &Finetune {
        &run.request.as_ref().unwrap().options
    }

    fn sweep(arguments: &str) -> Result<Vec<SweepRun>, Error> {
        let arguments = std::iter::once("pokemon_finetune").chain(arguments.split_whitespace());
        let request = Request::parse(arguments)?.begin();
        runs(&request, request.options.data.output_dir.as_deref().unwrap_or(Path::new("runs/pokemon")))
    }

    #[test]
    fn a_grid_has_every_combination_in_a_folder_of_its_own() {
        let runs = sweep("--output-dir runs/x --sweep r=4,8 lora_alpha=16,32 --seed 3").unwrap();
        let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(
            names,
            ["r-4 lora_alpha-16", "r-4 lora_alpha-32", "r-8 lora_alpha-16", "r-8 lora_alpha-32"]
        );
        let last = options(&runs[3]);
        assert_eq!((last.lora.rank(), last.lora.alpha(), last.training.seed), (8, 32.0, 3));
        assert_eq!(last.data.output_dir.as_deref(), Some(Path::new("runs/x/r-8_lora_alpha-32")));
        assert!(sweep("--seed 3").unwrap().is_empty());
    }

    #[test]
    fn each_run_of_a_sweep_has_its_own_command_to_resume() {
        for flags in [
            "--output-dir runs/x --sweep r=4 seed=1,2 --no-shuffle",
            "--sweep=r=4 --sweep=seed=1,2 --no-shuffle --output-dir=runs/x",
        ] {
            let runs = sweep(flags).unwrap();
            let (_, own) = runs[1].request.as_ref().unwrap().command.split_once(" -- ").unwrap();
            assert_eq!(own, "--no-shuffle --lora-r=4 --seed=2 --output-dir=runs/x/r-4_seed-2");
            let again = format!("pokemon_finetune {own} --resume");
            let again = Request::parse(again.split(' ')).unwrap();
            assert!(again.resume.is_some());
            assert_eq!(again.options.data.output_dir, options(&runs[1]).data.output_dir);
        }
    }

    #[test]
    fn options_that_cannot_be_swept_are_refused_with_those_that_can() {
        for (arguments, words) in [
            ("--sweep dataset=a,b", "`dataset` cannot be swept"),
            ("--sweep r=4,,8", "empty value"),
            ("--sweep r", "needs a name and values"),
            ("--sweep r=4,x", "at least 1"),
            ("--sweep r=4,8 --lora-r 2", "--lora-r"),
            ("--sweep lr_scheduler_type=linear,constant --min-lr-rate 0.1", "--min-lr-rate does nothing"),
        ] {
            // Checked before any run begins.
            let arguments: Vec<&str> =
                std::iter::once("pokemon_finetune").chain(arguments.split_whitespace()).collect();
            let message = Request::parse(arguments.clone()).unwrap_err().to_string();
            assert!(message.contains(words), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn each_run_of_a_sweep_replaces_its_own_earlier_one() {
        let replaces = |flags: &str| {
            let runs = sweep(&format!("--output-dir runs/x --sweep r=4,8 {flags}")).unwrap();
            runs.iter().all(|run| options(run).data.overwrite_output_dir)
        };
        assert!(replaces("--overwrite-output-dir") && !replaces("--seed 3"));
    }
}
