use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::options::Flags;

/// Flags of one command, which do not belong to the run that it begins or continues.
const OF_THE_COMMAND: [&str; 7] =
    ["distributed", "help", "output-dir", "overwrite-output-dir", "resume", "sweep", "version"];

/// The flags of a parsed command line, which are saved with the run.
pub(super) fn recorded(command: &Command, matches: &ArgMatches) -> Flags {
    let mut flags = Flags::default();
    for argument in command.get_arguments() {
        let Some(name) = argument.get_long().filter(|name| !OF_THE_COMMAND.contains(name)) else { continue };
        let given = matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
        if let Some(values) = values(argument, matches) {
            flags.insert(name, values, given);
        }
    }
    flags
}

/// The values of a flag, none for a switch that is on; `None` for a flag without a value.
fn values(argument: &Arg, matches: &ArgMatches) -> Option<Vec<OsString>> {
    let id = argument.get_id().as_str();
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        matches.get_flag(id).then(Vec::new)
    } else {
        Some(matches.get_raw(id)?.map(ToOwned::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Request;
    use crate::options::*;
    use peft_lora::{Bias, InitLoraWeights};

    fn flags(arguments: &str) -> Flags {
        let arguments = std::iter::once("pokemon_finetune").chain(arguments.split_whitespace());
        Request::parse(arguments).unwrap().flags
    }

    #[test]
    fn saved_flags_parse_to_the_same_options() {
        let line =
            "--seed 7 --no-shuffle --report-to csv,tensorboard --split 0.6,0.2,0.2 --lora-r 4 --output-dir a";
        let flags = flags(line);
        let json = serde_json::to_string(&flags).unwrap();
        let read: Flags = serde_json::from_str(&json).unwrap();
        assert_eq!(read, flags);
        let arguments = std::iter::once("pokemon_finetune".into()).chain(read.arguments());
        let again = Request::parse(arguments).unwrap().options;
        let mut first = Request::parse(format!("pokemon_finetune {line}").split(' ')).unwrap().options;
        first.data.output_dir = None;
        assert_eq!(again, first);
        let given = ["--lora-r=4", "--no-shuffle", "--report-to=csv", "--report-to=tensorboard", "--seed=7"];
        let given: Vec<OsString> = given.into_iter().chain(["--split=0.6,0.2,0.2"]).map(Into::into).collect();
        assert_eq!(flags.given_arguments(), given);
    }

    #[test]
    fn later_flags_win_and_defaults_do_not() {
        let run = flags("--seed 7 --max-steps 10 --no-feature-cache");
        let later = flags("--num-train-epochs 3 --feature-cache-dir a --logging-steps 5");
        let flags = run.with(&later);
        let given = ["--feature-cache-dir=a", "--logging-steps=5", "--num-train-epochs=3", "--seed=7"];
        assert_eq!(flags.given_arguments(), given.map(OsString::from));
        assert!(!flags.arguments().contains(&"--seed=42".into()));
    }

    fn data() -> DataOptions {
        DataOptions {
            model: "a/b@main".parse().unwrap(),
            dataset: "src/cli".parse().unwrap(),
            image_column: Some("photo".to_owned()),
            caption_column: Some("says".to_owned()),
            prompt_column: Some("asks".to_owned()),
            subset: Some(9),
            check_rows: Some(CheckRows::All),
            on_bad_row: OnBadRow::Skip,
            max_image_pixels: 7,
            split: SplitFractions { train: 0.7, validation: 0.2, test: 0.1 },
            validation: None,
            test: None,
            split_seed: 3,
            split_by: SplitBy::Picture,
            padding: Padding::MaxLength,
            no_shuffle: true,
            shuffle_window: None,
            data_cache: Some(DataCache { bytes: 2_000_000 }),
            output_dir: None,
            overwrite_output_dir: false,
            eval_captions: Some(2),
        }
    }

    /// Options that all differ from the recipe.
    fn everything() -> Finetune {
        Finetune {
            data: data(),
            training: TrainingOptions {
                num_train_epochs: 0.1 + 0.2,
                max_steps: Some(5),
                learning_rate: Some(1e-5 / 3.0),
                lr_scheduler_type: LrSchedulerType::WarmupStableDecay,
                warmup_ratio: 0.1,
                per_device_train_batch_size: 3,
                per_device_eval_batch_size: 4,
                gradient_accumulation_steps: 5,
                fuse_accumulation: FuseAccumulation::UpTo(2),
                weight_decay: 0.01,
                max_grad_norm: 0.5,
                label_smoothing_factor: 0.1,
                eval_strategy: EvalStrategy::Steps,
                save_total_limit: Some(0),
                logging_steps: 6,
                seed: u64::MAX,
            },
            optimizer: OptimizerOptions {
                optim: Optim::Sgd,
                sgd_momentum: Some(0.9),
                loraplus_lr_ratio: Some(16.0),
                min_lr_rate: Some(0.1),
                lr_num_cycles: None,
                lr_power: None,
                lr_decay_ratio: Some(0.3),
            },
            run: RunOptions {
                eval_steps: Some(3),
                save_strategy: Some(SaveStrategy::Steps),
                save_steps: Some(4),
                early_stopping_patience: Some(2),
                early_stopping_threshold: Some(0.01),
                max_time: Some(0.3),
                on_nan: NanPolicy::Skip,
                max_skipped_steps: Some(1),
                report_to: vec![ReportTo::Csv, ReportTo::Tensorboard],
            },
            lora: LoraOptions {
                tune: Tune::Both,
                lora_r: Some(4),
                lora_alpha: Some(8.5),
                lora_dropout: Some(0.0),
                target_modules: Some(TargetModules::Regex(".*(query|value)".to_owned())),
                init_lora_weights: Some(InitLoraWeights::PissaNiter(16)),
                use_rslora: true,
                use_dora: true,
                lora_bias: true,
                bias: Some(Bias::LoraOnly),
                modules_to_save: vec!["output".to_owned(), "embeddings".to_owned()],
                init_adapter: Some("some where/it's".into()),
                hidden_dropout: Some(0.2),
            },
            hardware: Hardware {
                device: DeviceName::Cuda(1),
                dtype: Dtype::Bf16,
                threads: Some(2),
                distributed: None,
                gradient_checkpointing: true,
                feature_cache_dir: Some("cache".into()),
                feature_cache_memory: Some(134_217_729),
                feature_cache_dtype: Some(FeatureDtype::F32),
                no_feature_cache: false,
                no_cuda_graph: true,
            },
        }
    }

    /// A run that a program begins can be continued from the command line.
    #[test]
    fn the_flags_of_options_parse_to_the_same_options() {
        let no_cache = Finetune {
            hardware: Hardware { no_feature_cache: true, ..Hardware::default() },
            ..Finetune::default()
        };
        let held_out = Finetune {
            data: DataOptions {
                validation: Some(HeldOut::Rows(5)),
                test: Some(HeldOut::Share(0.25)),
                ..DataOptions::default()
            },
            ..Finetune::default()
        };
        for options in [Finetune::default(), everything(), no_cache, held_out] {
            let flags = Flags::from(&options);
            for arguments in [flags.arguments(), flags.given_arguments()] {
                let line = std::iter::once("pokemon_finetune".into()).chain(arguments);
                assert_eq!(Request::parse(line).unwrap().options, options);
            }
        }
    }
}
