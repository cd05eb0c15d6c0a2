use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;

use clap::CommandFactory as _;
use clap::error::{Error, ErrorKind};

use super::{Finetune, Request};

/// Options that may differ between the runs of a sweep, by their names in Hugging Face's classes. The model,
/// the data and the split are the same for all runs, which share the image features.
const SWEPT: [&str; 15] = [
    "gradient_accumulation_steps",
    "hidden_dropout",
    "learning_rate",
    "lora_alpha",
    "lora_dropout",
    "lora_r",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "seed",
    "warmup_ratio",
    "weight_decay",
    "r",
];

/// One option and its values: `lora_alpha=16,32`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// The option's name, in snake case.
    pub name: String,
    /// Its values, as on the command line.
    pub values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, values)) = text.split_once('=') else {
            return Err("needs a name and values: lora_alpha=16,32".into());
        };
        let name = name.trim_start_matches("--").replace('-', "_");
        if !SWEPT.contains(&name.as_str()) {
            return Err(format!("`{name}` cannot be swept; these can: {}", SWEPT.join(", ")));
        }
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if values.iter().any(String::is_empty) {
            return Err("has an empty value".into());
        }
        Ok(Self { name, values })
    }
}

/// One run of a sweep.
#[derive(Debug, Clone)]
pub struct SweepRun {
    /// Its distinguishing options: `r-4 lora_alpha-16`.
    pub name: String,
    /// The request for this run alone, including its output folder.
    pub request: Request,
}

impl Finetune {
    /// The runs of `--sweep`: every combination of the values, each in a folder of its own below
    /// `output_dir`; the last axis varies fastest. None without `--sweep`.
    ///
    /// # Errors
    /// If a value is not valid for its flag, or if a flag is both swept and given.
    pub fn sweep(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        output_dir: &Path,
    ) -> Result<Vec<SweepRun>, Error> {
        let axes = &self.data.sweep;
        if axes.is_empty() {
            return Ok(Vec::new());
        }
        if self.training.resume.is_some() {
            let message =
                "--sweep begins new runs: continue one of its runs with --resume and that run's folder";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        let arguments = without(arguments, "--sweep");
        let arguments = without(arguments, "--output-dir");
        grid(axes)
            .into_iter()
            .map(|point| {
                let name = point.iter().map(|(name, value)| format!("{name}-{value}")).collect::<Vec<_>>();
                // Parsed like a typed command line, so that all checks of flags apply to sweeps.
                let mut line = arguments.clone();
                for (name, value) in &point {
                    let flag = if name == "r" { "lora_r" } else { name };
                    line.push(format!("--{}={value}", flag.replace('_', "-")).into());
                }
                let mut folder = OsString::from("--output-dir=");
                folder.push(output_dir.join(name.join("_")));
                line.push(folder);
                Ok(SweepRun { name: name.join(" "), request: Request::parse(line)? })
            })
            .collect()
    }
}

/// Removes a flag and its values from a command line, which has nothing but flags and values.
fn without(arguments: impl IntoIterator<Item = OsString>, flag: &str) -> Vec<OsString> {
    let mut inside = false;
    let mut keep = |argument: &OsString| {
        let text = argument.to_string_lossy();
        if text.starts_with('-') {
            inside = text == flag || text.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
        }
        !inside
    };
    arguments.into_iter().filter(|argument| keep(argument)).collect()
}

/// Every combination of the values.
fn grid(axes: &[Axis]) -> Vec<Vec<(String, String)>> {
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let with = |point: &Vec<(String, String)>, value: &String| {
            let mut point = point.clone();
            point.push((axis.name.clone(), value.clone()));
            point
        };
        points.iter().flat_map(|point| axis.values.iter().map(move |value| with(point, value))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(arguments: &str) -> Result<Vec<SweepRun>, Error> {
        let arguments: Vec<OsString> =
            std::iter::once("pokemon_finetune").chain(arguments.split_whitespace()).map(Into::into).collect();
        let options = Finetune::from_arguments(arguments.clone())?;
        options.sweep(arguments, options.data.output_dir.as_deref().unwrap_or(Path::new("runs/pokemon")))
    }

    #[test]
    fn a_grid_has_every_combination_in_a_folder_of_its_own() {
        let runs = sweep("--output-dir runs/x --sweep r=4,8 lora_alpha=16,32 --seed 3").unwrap();
        let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(
            names,
            ["r-4 lora_alpha-16", "r-4 lora_alpha-32", "r-8 lora_alpha-16", "r-8 lora_alpha-32"]
        );
        let last = &runs[3].request.options;
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
            let (_, own) = runs[1].request.command.split_once(" -- ").unwrap();
            assert_eq!(own, "--no-shuffle --lora-r=4 --seed=2 --output-dir=runs/x/r-4_seed-2");
            let again = format!("pokemon_finetune {own} --resume");
            let again = Finetune::from_arguments(again.split(' ')).unwrap();
            assert!(again.training.resume.is_some());
            assert_eq!(again.data.output_dir, runs[1].request.options.data.output_dir);
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
            ("--sweep r=4,8 --resume", "--sweep begins new runs"),
            ("--sweep lr_scheduler_type=linear,constant --min-lr-rate 0.1", "--min-lr-rate does nothing"),
        ] {
            let message = sweep(arguments).unwrap_err().to_string();
            assert!(message.contains(words), "{arguments}: {message}");
        }
    }
}
