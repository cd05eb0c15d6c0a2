//! Tests of the flags, their defaults and refusals.

use clap::CommandFactory as _;
use clap::error::Error;

use super::*;
use crate::cli::Request;
use crate::hub::Location;
use crate::options::{
    DeviceName, Dtype, EvalStrategy, LrSchedulerType, OnBadRow, Padding, SplitBy, SplitFractions, Tune,
};
use crate::resume::Resume;

fn request(arguments: &str) -> Result<Request, Error> {
    Request::parse(std::iter::once("pokemon_finetune").chain(arguments.split_whitespace()))
}

fn parse(arguments: &str) -> Result<Finetune, Error> {
    request(arguments).map(|request| request.options)
}

fn refusal(arguments: &str) -> String {
    parse(arguments).unwrap_err().to_string()
}

#[test]
fn the_definition_is_sound() {
    FinetuneFlags::command().debug_assert();
}

#[test]
fn the_defaults_are_the_recipe() {
    assert_eq!(parse("").unwrap(), Finetune::default());
    assert_eq!(crate::cli::CaptionFlags::from_arguments(["caption", "a.png"]).unwrap(), {
        let images = vec!["a.png".into()];
        crate::options::Caption { images, ..Default::default() }
    });
    assert_eq!(crate::cli::CompareFlags::from_arguments(["compare", "a"]).unwrap(), {
        let runs = vec!["a".into()];
        crate::options::Compare { runs, ..Default::default() }
    });
    assert_eq!(parse("--model microsoft/git-base").unwrap().learning_rate(), 5e-5);
    assert_eq!(parse("--model microsoft/git-base --learning-rate 2e-4").unwrap().learning_rate(), 2e-4);
    assert_eq!(parse("").unwrap().learning_rate(), 1e-3);
    let Finetune { data, training, lora, hardware, .. } = parse("").unwrap();
    assert_eq!(data.most_rows(), Some(700));
    assert_eq!(
        (data.model, data.dataset, data.subset, data.split_seed),
        (Location::Embedded, Location::Embedded, None, 42)
    );
    assert_eq!((data.split_by, data.on_bad_row), (SplitBy::Row, OnBadRow::Stop));
    let rows = |dataset: &str| parse(&format!("--dataset {dataset}")).unwrap().data.most_rows();
    assert_eq!(rows("reach-vb/pokemon-blip-captions"), Some(700));
    assert_eq!(rows("lambdalabs/pokemon-blip-captions@main"), Some(700));
    assert_eq!((rows("someone/art"), rows("src")), (None, None));
    assert_eq!(parse("--dataset src --subset 5").unwrap().data.most_rows(), Some(5));
    assert_eq!(data.split, SplitFractions { train: 0.8, validation: 0.1, test: 0.1 });
    assert_eq!((data.padding, data.no_shuffle), (Padding::Longest, false));
    assert_eq!((training.num_train_epochs, training.max_steps), (15.0, None));
    assert_eq!((training.per_device_train_batch_size, training.gradient_accumulation_steps), (2, 4));
    assert_eq!((training.warmup_ratio, training.weight_decay, training.max_grad_norm), (0.05, 0.0, 1.0));
    assert_eq!(
        (training.lr_scheduler_type, training.eval_strategy),
        (LrSchedulerType::Linear, EvalStrategy::Epoch)
    );
    assert_eq!((lora.tune, lora.rank(), lora.alpha(), lora.dropout()), (Tune::Text, 16, 32.0, 0.05));
    assert_eq!((lora.target_modules, lora.init_adapter, lora.hidden_dropout), (None, None, None));
    assert_eq!(
        (hardware.device, hardware.dtype, hardware.no_feature_cache),
        (DeviceName::Cpu, Dtype::F32, false)
    );
}

#[test]
fn every_flag_of_the_design_is_there_and_no_other() {
    let designed = "model dataset image-column caption-column prompt-column output-dir subset check-rows on-bad-row split validation test split-seed \
        split-by num-train-epochs max-steps learning-rate \
        per-device-train-batch-size per-device-eval-batch-size gradient-accumulation-steps warmup-ratio weight-decay \
        max-grad-norm lr-scheduler-type lora-r lora-alpha lora-dropout target-modules init-lora-weights use-rslora use-dora lora-bias bias modules-to-save tune init-adapter hidden-dropout \
        no-shuffle shuffle-window data-cache padding dtype device distributed threads no-feature-cache no-cuda-graph feature-cache-dir feature-cache-memory feature-cache-dtype fuse-accumulation eval-strategy save-total-limit logging-steps seed resume \
        label-smoothing-factor gradient-checkpointing optim sgd-momentum loraplus-lr-ratio min-lr-rate lr-num-cycles lr-power lr-decay-ratio eval-steps save-strategy save-steps early-stopping-patience \
        overwrite-output-dir early-stopping-threshold max-time on-nan max-skipped-steps report-to sweep eval-captions max-image-pixels";
    let mut designed: Vec<_> = designed.split_whitespace().collect();
    let command = FinetuneFlags::command();
    let mut there: Vec<_> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
    designed.sort_unstable();
    there.sort_unstable();
    assert_eq!(there, designed);
}

#[test]
fn the_help_of_save_strategy_is_about_saving() {
    let help = FinetuneFlags::command().render_long_help().to_string();
    let (_, from) = help.split_once("--save-strategy <").unwrap();
    let (saving, _) = from.split_once("--save-steps <").unwrap();
    assert!(
        saving.contains("After every --save-steps steps") && !saving.contains("--eval-steps"),
        "{saving}"
    );
}

#[test]
fn a_flag_of_another_program_is_refused_with_the_equivalent() {
    for (arguments, meant) in [
        ("--max-length 30", "there is no --max-length: give --padding"),
        ("--lr 1e-3", "give --learning-rate"),
        ("--max_train_samples=9", "give --subset"),
        ("--rank 4", "give --lora-r"),
    ] {
        let message = refusal(arguments);
        assert!(message.contains(meant), "{arguments}: {message}");
    }
}

#[test]
fn resume_takes_a_folder_or_finds_the_newest() {
    assert_eq!(request("--resume").unwrap().resume, Some(Resume::Latest));
    assert_eq!(request("--resume --seed 1").unwrap().resume, Some(Resume::Latest));
    let named = request("--resume runs/pokemon/checkpoint-70").unwrap().resume;
    assert_eq!(named, Some(Resume::From("runs/pokemon/checkpoint-70".into())));
}

#[test]
fn nonsense_is_refused_with_the_flag_and_the_reason() {
    for (arguments, words) in [
        ("--split 0.8,0.1,0.2", "sum to 1"),
        ("--split 0,0.5,0.5", "the first share, for training, must be above 0"),
        ("--split 1,0,0", "leaves no rows for validation: give it a share, or use --eval-strategy no"),
        ("--split 1,0,0 --eval-strategy steps", "--eval-strategy no"),
        (
            "--split 0.9,0,0.1 --eval-strategy no --save-strategy epoch --eval-captions 4",
            "--eval-captions captions rows for validation",
        ),
        ("--split-by file", "[possible values: row, picture]"),
        ("--on-bad-row ignore", "[possible values: stop, skip]"),
        ("--learning-rate=-1", "-1 must be above 0"),
        ("--learning-rate 0", "above 0"),
        ("--learning-rate nan", "nan is not a finite number"),
        ("--num-train-epochs 0", "above 0"),
        ("--per-device-train-batch-size 0", "at least 1"),
        ("--seed -1", "must be a whole number of at least 0"),
        ("--split-seed -1", "must be a whole number of at least 0"),
        ("--lora-dropout 1", "below 1"),
        ("--warmup-ratio 5", "between 0 and 1"),
        ("--device gpu", "cpu, cuda, cuda:N or metal"),
        ("--dtype f16", "[possible values: f32, bf16, int8]"),
        ("--padding max", "[possible values: longest, max-length]"),
        ("--tune all", "[possible values: text, vision, both, full]"),
        ("--model ./no/such/folder", "`./no/such/folder`"),
        ("--lora-rank 8", "--lora-r"),
        ("--fuse-accumulation 0", "at least 1"),
        ("--feature-cache-memory 2", "500MB or 2GB"),
        ("--feature-cache-memory=-1GB", "at least 0"),
        ("--max-time 90", "90s, 45m or 2h"),
        ("--max-time 0h", "above 0"),
        ("--on-nan ignore", "[possible values: stop, skip]"),
        // Negative numbers are values of the flag before them.
        ("--max-steps -1", "at least 1; leave the flag out for Hugging Face's -1"),
        ("--max-grad-norm -1", "-1 must be at least 0; 0 turns clipping off, as -1 does in Hugging Face"),
        ("--learning-rate -1e-3", "-1e-3 must be above 0"),
        ("--num-train-epochs -1", "above 0"),
        ("--save-total-limit -1", "at least 0; leave the flag out to have no limit"),
        ("--logging-steps -5", "at least 1"),
        ("--warmup-ratio -0.1", "between 0 and 1"),
        ("--seed -1", "--seed"),
        ("--eval-captions -1", "at least 1"),
    ] {
        let message = refusal(arguments);
        assert!(message.contains(words), "{arguments}: {message}");
    }
}

#[test]
fn int8_is_for_the_cpu() {
    parse("--dtype int8").unwrap();
    let message = refusal("--dtype int8 --device cuda");
    assert!(message.contains("--dtype int8 is for --device cpu"), "{message}");
}

#[test]
fn a_flag_that_would_do_nothing_is_refused() {
    for (arguments, flags) in [
        ("--tune full --lora-r 8", ["--lora-r", "--tune full"]),
        ("--tune full --target-modules query", ["--target-modules", "--tune full"]),
        ("--overwrite-output-dir --resume", ["--overwrite-output-dir", "--resume"]),
        ("--tune full --loraplus-lr-ratio 4", ["--loraplus-lr-ratio", "--tune full"]),
        ("--sgd-momentum 0.9", ["--sgd-momentum", "--optim sgd"]),
        ("--min-lr-rate 0.1 --lr-scheduler-type constant", ["--min-lr-rate", "falls"]),
        ("--lr-num-cycles 2", ["--lr-num-cycles", "cosine-with-restarts"]),
        ("--lr-power 2", ["--lr-power", "polynomial"]),
        ("--lr-decay-ratio 0.1", ["--lr-decay-ratio", "warmup-stable-decay"]),
        ("--eval-steps 10", ["--eval-steps", "--eval-strategy steps"]),
        ("--save-steps 10", ["--save-steps", "--save-strategy steps"]),
        ("--early-stopping-patience 2 --eval-strategy no", ["--early-stopping-patience", "evaluations"]),
        ("--early-stopping-threshold 0.1", ["--early-stopping-threshold", "--early-stopping-patience"]),
        ("--max-skipped-steps 3", ["--max-skipped-steps", "--on-nan skip"]),
        (
            "--gradient-accumulation-steps 1 --fuse-accumulation 2",
            ["--fuse-accumulation", "--gradient-accumulation-steps"],
        ),
        ("--no-feature-cache --feature-cache-dir a", ["--feature-cache-dir", "--no-feature-cache"]),
        ("--no-feature-cache --feature-cache-memory 1GB", ["--feature-cache-memory", "--no-feature-cache"]),
        ("--tune both --feature-cache-dir a", ["--feature-cache-dir", "encoder"]),
        ("--tune full --feature-cache-memory 1GB", ["--feature-cache-memory", "encoder"]),
        ("--tune full --no-feature-cache", ["--no-feature-cache", "encoder"]),
        ("--eval-strategy no --eval-captions 2", ["--eval-captions", "--save-strategy"]),
        ("--eval-strategy no --save-total-limit 2", ["--save-total-limit", "--save-strategy"]),
    ] {
        let message = refusal(arguments);
        assert!(flags.iter().all(|flag| message.contains(flag)), "{arguments}: {message}");
    }
    parse("--tune full --max-steps 10 --resume").unwrap();
    parse("--split 1,0,0 --eval-strategy no").unwrap();
    parse("--split 0.9,0.1,0 --eval-captions 2").unwrap();
    parse("--init-adapter a --lora-dropout 0 --hidden-dropout 0 --no-shuffle").unwrap();
    parse("--feature-cache-dir a --feature-cache-memory 0MB").unwrap();
    parse("--tune both --target-modules query --feature-cache-dir a").unwrap();
    // The best evaluation is saved even with --save-strategy no.
    parse("--save-strategy no --eval-captions 2 --save-total-limit 2").unwrap();
    parse("--eval-strategy no --save-strategy epoch --eval-captions 2 --save-total-limit 2").unwrap();
}

#[test]
fn every_flag_of_the_engine_reaches_it() {
    use trainer_core::{IntervalStrategy, TrainingArguments};

    let told = |arguments: &str| parse(arguments).unwrap().training_arguments();
    // The recipe's values that differ from the engine's defaults.
    let recipe = TrainingArguments {
        num_train_epochs: 15.0,
        learning_rate: 1e-3,
        warmup_ratio: 0.05,
        gradient_accumulation_steps: 4,
        eval_strategy: IntervalStrategy::Epoch,
        eval_steps: 1,
        save_strategy: IntervalStrategy::Epoch,
        save_steps: 1,
        logging_steps: 1,
        load_best_model_at_end: true,
        ..Default::default()
    };
    assert_eq!(told(""), recipe);
    let arguments = told(
        "--optim sgd --sgd-momentum 0.9 --loraplus-lr-ratio 16 --lr-scheduler-type cosine-with-restarts \
         --lr-num-cycles 3 --min-lr-rate 0.1 --eval-strategy steps --eval-steps 20 --save-strategy steps \
         --save-steps 5 --save-total-limit 0 --early-stopping-patience 4 --early-stopping-threshold 0.01 \
         --max-time 1.5h --on-nan skip --max-skipped-steps 3",
    );
    arguments.validate().unwrap();
    let json = serde_json::to_value(&arguments).unwrap();
    for (name, value) in [
        ("optim", serde_json::json!("sgd")),
        ("sgd_momentum", 0.9.into()),
        ("lr_scheduler_type", "cosine_with_restarts".into()),
        ("eval_steps", 20.into()),
        ("save_steps", 5.into()),
        ("save_total_limit", 0.into()),
        ("early_stopping_patience", 4.into()),
        ("early_stopping_threshold", 0.01.into()),
        ("max_seconds", 5400.0.into()),
        ("on_nan", "skip".into()),
        ("max_skipped_steps", 3.into()),
    ] {
        assert_eq!(json[name], value, "{name}");
    }
    assert_eq!(json["parameter_groups"][0]["lr_ratio"], 16.0);
    assert_eq!(
        (&json["lr_scheduler_kwargs"]["num_cycles"], &json["lr_scheduler_kwargs"]["min_lr_rate"]),
        (&3.into(), &0.1.into())
    );
}

#[test]
fn every_argument_that_a_message_may_name_has_a_flag() {
    use trainer_core::TrainingArguments;

    use crate::engine_words::flag;

    let json = serde_json::to_value(TrainingArguments::default()).unwrap();
    let command = FinetuneFlags::command();
    let known: Vec<&str> = command.get_arguments().filter_map(|flag| flag.get_long()).collect();
    let names = json.as_object().unwrap().iter().flat_map(|(name, value)| match value.as_object() {
        Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
        None => vec![name.clone()],
    });
    // These cannot be set by flags.
    let fixed = ["adam_beta1", "adam_beta2", "adam_epsilon", "metric_for_best_model"];
    for name in names.filter(|name| !fixed.contains(&name.as_str())) {
        assert!(known.contains(&flag(&name).trim_start_matches('-')), "{name}: {}", flag(&name));
    }
}
