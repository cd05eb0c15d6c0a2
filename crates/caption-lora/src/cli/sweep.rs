use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use clap::error::Error;
use serde::{Deserialize, Serialize};

use super::Request;
use super::command_line::finetune_program;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.values.join(","))
    }
}

impl Axis {
    /// The names of the folders of a sweep's runs, in the order of the runs.
    pub fn folders(axes: &[Self]) -> Vec<String> {
        grid(axes).iter().map(|point| labels(point).join("_")).collect()
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

impl Request {
    /// The runs of `--sweep`: every combination of the values, each in a folder of its own below
    /// `output_dir`; the last axis varies fastest. None without `--sweep`.
    ///
    /// # Errors
    /// If a value is not valid for its flag, or if a flag is both swept and given.
    pub fn sweep(&self, output_dir: &Path) -> Result<Vec<SweepRun>, Error> {
        let mut arguments = vec![finetune_program()];
        arguments.extend(self.flags.given_arguments());
        if self.options.data.overwrite_output_dir {
            arguments.push("--overwrite-output-dir".into());
        }
        grid(&self.options.data.sweep)
            .iter()
            .map(|point| {
                // Parsed like a typed command line, so that all checks of flags apply to sweeps.
                let mut line = arguments.clone();
                for (name, value) in point {
                    let flag = if name == "r" { "lora_r" } else { name };
                    line.push(format!("--{}={value}", flag.replace('_', "-")).into());
                }
                let labels = labels(point);
                let mut folder = OsString::from("--output-dir=");
                folder.push(output_dir.join(labels.join("_")));
                line.push(folder);
                Ok(SweepRun { name: labels.join(" "), request: Self::parse(line)? })
            })
            .collect()
    }
}

/// One value of each swept option.
type Point = Vec<(String, String)>;

/// Every combination of the values; the last axis varies fastest. None without axes.
fn grid(axes: &[Axis]) -> Vec<Point> {
    if axes.is_empty() {
        return Vec::new();
    }
    axes.iter().fold(vec![Vec::new()], |points, axis| {
        let with = |point: &Point, value: &String| {
            let mut point = point.clone();
            point.push((axis.name.clone(), value.clone()));
            point
        };
        points.iter().flat_map(|point| axis.values.iter().map(move |value| with(point, value))).collect()
    })
}

/// `r-4` and `lora_alpha-16`.
fn labels(point: &[(String, String)]) -> Vec<String> {
    point.iter().map(|(name, value)| format!("{name}-{value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(arguments: &str) -> Result<Vec<SweepRun>, Error> {
        let arguments = std::iter::once("pokemon_finetune").chain(arguments.split_whitespace());
        let request = Request::parse(arguments)?;
        request.sweep(request.options.data.output_dir.as_deref().unwrap_or(Path::new("runs/pokemon")))
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
        let axes = ["r=4,8", "lora_alpha=16,32"].map(|axis| axis.parse::<Axis>().unwrap());
        let folders = Axis::folders(&axes);
        assert_eq!((folders.len(), folders[3].as_str()), (4, "r-8_lora_alpha-32"));
        assert_eq!(axes[1].to_string(), "lora_alpha=16,32");
        assert!(sweep("--seed 3").unwrap().is_empty() && Axis::folders(&[]).is_empty());
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
            let again = Request::parse(again.split(' ')).unwrap().options;
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
            ("--sweep lr_scheduler_type=linear,constant --min-lr-rate 0.1", "--min-lr-rate does nothing"),
        ] {
            // Before a run is begun.
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
            runs.iter().all(|run| run.request.options.data.overwrite_output_dir)
        };
        assert!(replaces("--overwrite-output-dir") && !replaces("--seed 3"));
    }
}
