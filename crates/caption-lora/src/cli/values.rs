//! Types of flag values, and their parsers.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;

/// Storage type of the frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Dtype {
    /// 32 bits
    #[default]
    F32,
    /// bfloat16 for the frozen weights: half the memory; adapters and optimizer stay f32
    Bf16,
}

/// Padded length of a batch's captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Padding {
    /// The longest caption of the batch
    #[default]
    Longest,
    /// The model's maximum: slower, with the same loss
    MaxLength,
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Tune {
    /// Adapters in the text decoder
    #[default]
    Text,
    /// Adapters in the vision encoder
    Vision,
    /// Adapters in both
    Both,
    /// All weights, without adapters
    Full,
}

/// Schedule of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LrSchedulerType {
    /// Linear decay to 0
    #[default]
    Linear,
    /// Decay to 0 along half a cosine
    Cosine,
    /// --lr-num-cycles times decay to 0 along half a cosine, starting from the highest value each time
    #[value(alias = "cosine_with_restarts")]
    CosineWithRestarts,
    /// Decay to 0 as the remaining share of steps, to the power --lr-power
    Polynomial,
    /// Constant
    #[value(alias = "constant_with_warmup")]
    Constant,
    /// Constant, with decay to 0 along half a cosine in the last --lr-decay-ratio of the steps
    #[value(alias = "warmup_stable_decay")]
    WarmupStableDecay,
}

/// The optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Optim {
    /// AdamW
    #[default]
    #[value(alias = "adamw_torch")]
    Adamw,
    /// Stochastic gradient descent
    Sgd,
}

/// What to do with a step whose loss or gradient is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum NanPolicy {
    /// Stop the run and say where
    #[default]
    Stop,
    /// Skip the step with a warning
    Skip,
}

/// Logs of the learning curves besides log.jsonl and trainer_state.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportTo {
    /// log.csv: step,metric,value
    Csv,
    /// tensorboard/: event files
    Tensorboard,
}

/// When the validation loss is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EvalStrategy {
    /// After every epoch; the best checkpoint is used at the end
    #[default]
    Epoch,
    /// After every --eval-steps steps; the best checkpoint is used at the end
    Steps,
    /// Never; the final weights are used at the end
    No,
}

/// When checkpoints are saved. Every evaluation that is the best so far is saved in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaveStrategy {
    /// After every epoch
    Epoch,
    /// After every --save-steps steps
    Steps,
    /// Never otherwise
    No,
}

/// When beam search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EarlyStopping {
    /// As soon as there are as many finished captions as beams
    #[default]
    True,
    /// When no live beam is likely to beat the finished captions
    False,
    /// When no live beam can beat the finished captions
    Never,
}

/// The checkpoint to resume from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The newest one in the output folder.
    Latest,
    /// This one.
    From(PathBuf),
}

impl FromStr for Resume {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "latest" { Self::Latest } else { Self::From(text.into()) })
    }
}

/// Shares of the rows for training, validation and test. They sum to 1; all but the first may be 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitFractions {
    /// For training.
    pub train: f64,
    /// For selecting the best checkpoint.
    pub validation: f64,
    /// For the final evaluation.
    pub test: f64,
}

impl FromStr for SplitFractions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<f64> = text.split(',').map(|part| share(part.trim())).collect::<Result<_, _>>()?;
        let [train, validation, test] = parts[..] else {
            return Err(format!("needs three shares: train,validation,test; got {}", parts.len()));
        };
        let sum = train + validation + test;
        if (sum - 1.0).abs() > 1e-6 {
            return Err(format!("the shares must sum to 1, and sum to {}", (sum * 1e6).round() / 1e6));
        }
        if train == 0.0 {
            return Err("the first share, for training, must be above 0".into());
        }
        Ok(Self { train, validation, test })
    }
}

impl fmt::Display for SplitFractions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.train, self.validation, self.test)
    }
}

/// When to use speculative decoding with an int8 draft model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Drafting {
    /// Where it is faster: up to four beams or draws at a time with f32 weights, one with bf16, if the
    /// weights exceed the processor's caches
    #[default]
    Auto,
    /// With f32 or bf16 weights, for any number of beams or draws
    Always,
    /// Never
    Never,
}

/// How many micro-batches of a step run in one forward and backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FuseAccumulation {
    /// As many as take little memory.
    #[default]
    Auto,
    /// At most this many.
    UpTo(usize),
}

impl FromStr for FuseAccumulation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { count(text).map(Self::UpTo) }
    }
}

impl fmt::Display for FuseAccumulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::UpTo(count) => write!(f, "{count}"),
        }
    }
}

/// Which linear layers get adapters, as in PEFT's `target_modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer but the output head.
    AllLinear,
    /// The layers whose path ends in one of these names.
    Names(Vec<String>),
    /// The layers whose whole path matches this regular expression.
    Regex(String),
}

impl FromStr for TargetModules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-,".contains(c);
        match text {
            "all-linear" => Ok(Self::AllLinear),
            _ if text.split(',').any(str::is_empty) => Err("has an empty name".into()),
            _ if text.chars().all(is_plain) => Ok(Self::Names(text.split(',').map(str::to_owned).collect())),
            _ => Ok(Self::Regex(text.into())),
        }
    }
}

/// A finite number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    bounded(text, "above 0", |x| x > 0.0)
}

/// A norm to clip gradients to, or 0.
pub(super) fn norm(text: &str) -> Result<f64, String> {
    at_least_zero(text).map_err(|why| match text.starts_with('-') {
        true => format!("{why}; 0 turns clipping off, as -1 does in Hugging Face's Trainer"),
        false => why,
    })
}

/// A total number of steps.
pub(super) fn steps(text: &str) -> Result<usize, String> {
    count(text).map_err(|why| match text.starts_with('-') {
        true => {
            format!("{why}; leave the flag out for Hugging Face's -1, with which --num-train-epochs decides")
        }
        false => why,
    })
}

/// A whole number that may be 0; a limit is turned off by leaving its flag out.
pub(super) fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| match text.starts_with('-') {
        true => "must be a whole number of at least 0; leave the flag out to have no limit".into(),
        false => "must be a whole number of at least 0".into(),
    })
}

/// A seed.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "must be a whole number of at least 0 and below 2^64".into())
}

/// The number of a row, one of a list.
pub(super) fn row(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "give the numbers of the rows, separated by commas: 0,1,2,3".into())
}

/// A finite number of at least 0.
pub(super) fn at_least_zero(text: &str) -> Result<f64, String> {
    bounded(text, "at least 0", |x| x >= 0.0)
}

/// A dropout probability: at least 0 and below 1.
pub(super) fn dropout(text: &str) -> Result<f64, String> {
    bounded(text, "at least 0 and below 1", |x| (0.0..1.0).contains(&x))
}

/// A time such as 90s, 45m or 2h, in seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let unit = |suffix, seconds| Some((text.strip_suffix(suffix)?, seconds));
    let (number, unit) = unit('s', 1.0)
        .or_else(|| unit('m', 60.0))
        .or_else(|| unit('h', 3600.0))
        .ok_or("needs a unit: 90s, 45m or 2h")?;
    Ok(positive(number)? * unit)
}

/// A size such as 500MB or 2GB, in bytes. As in Hugging Face's libraries, GB are powers of 1000 and GiB of
/// 1024.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, f64); 6] =
        [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let unit = |(suffix, bytes): &(&str, f64)| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
        unit.eq_ignore_ascii_case(suffix).then_some((number, *bytes))
    };
    let (number, unit) = UNITS.iter().find_map(unit).ok_or("needs a unit: 500MB or 2GB")?;
    Ok((at_least_zero(number.trim())? * unit) as usize)
}

/// A share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    bounded(text, "between 0 and 1", |x| (0.0..=1.0).contains(&x))
}

/// A share above 0.
pub(super) fn positive_share(text: &str) -> Result<f64, String> {
    bounded(text, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0)
}

/// Any finite number.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    bounded(text, "finite", |_| true)
}

/// A whole number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("must be a whole number of at least 1".into()),
    }
}

fn bounded(text: &str, bounds: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    let x: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if x.is_finite() && holds(x) { Ok(x) } else { Err(format!("{text} must be {bounds}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_three_shares_of_one_and_something_is_trained_on() {
        let split: SplitFractions = "0.8, 0.1,0.1".parse().unwrap();
        assert_eq!((split.train, split.validation, split.test), (0.8, 0.1, 0.1));
        assert_eq!(split.to_string().parse::<SplitFractions>().unwrap(), split);
        let all: SplitFractions = "1,0,0".parse().unwrap();
        assert_eq!((all.train, all.validation, all.test), (1.0, 0.0, 0.0));
        for (text, words) in [
            ("0.8,0.2", "got 2"),
            ("0.8,0.1,0.2", "sum to 1.1"),
            ("0,0.5,0.5", "the first share, for training, must be above 0"),
            ("1.2,-0.1,-0.1", "1.2 must be between 0 and 1"),
            ("0.8,0.1,x", "`x` is not a number"),
            ("NaN,0.5,0.5", "NaN must be between 0 and 1"),
        ] {
            let message = text.parse::<SplitFractions>().unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn target_modules_are_names_unless_they_need_a_regex() {
        let read = |text: &str| text.parse::<TargetModules>();
        assert_eq!(read("all-linear"), Ok(TargetModules::AllLinear));
        assert_eq!(read("query,value"), Ok(TargetModules::Names(vec!["query".into(), "value".into()])));
        assert_eq!(
            read("attention.output.dense"),
            Ok(TargetModules::Names(vec!["attention.output.dense".into()]))
        );
        assert_eq!(read(r".*\.(query|value)"), Ok(TargetModules::Regex(r".*\.(query|value)".into())));
        assert!(read("query,").is_err() && read("").is_err());
    }

    #[test]
    fn fuse_accumulation_is_auto_or_a_maximum() {
        for (text, value) in [("auto", FuseAccumulation::Auto), ("4", FuseAccumulation::UpTo(4))] {
            assert_eq!(text.parse(), Ok(value));
            assert_eq!(value.to_string(), text);
        }
        assert!("0".parse::<FuseAccumulation>().is_err() && "all".parse::<FuseAccumulation>().is_err());
    }

    #[test]
    fn numbers_keep_their_bounds_and_are_finite() {
        for text in ["inf", "NaN", "1e999", "", "five"] {
            assert!(finite(text).is_err(), "{text}");
        }
        assert!(positive("0").is_err() && positive("1e-9").is_ok());
        assert!(at_least_zero("-0.1").is_err() && at_least_zero("0").is_ok());
        assert!(dropout("1").is_err() && dropout("0").is_ok());
        assert_eq!([bytes("2GB"), bytes("1.5 gib"), bytes("0MB")], [2_000_000_000, 3 << 29, 0].map(Ok));
        assert!(bytes("2").is_err() && bytes("GB").is_err() && bytes("-1MB").is_err() && bytes("B").is_err());
        assert!(share("1").is_ok() && share("1.01").is_err());
        assert!(positive_share("0").is_err() && positive_share("1").is_ok());
        assert!(seed("-1").unwrap_err().contains("at least 0") && seed("1.5").is_err() && seed("7") == Ok(7));
        assert!(row("0-3").unwrap_err().contains("separated by commas") && row("3") == Ok(3));
        assert!(count("0").is_err() && count("-1").is_err() && count("1.5").is_err() && count("7") == Ok(7));
    }
}
