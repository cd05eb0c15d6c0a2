//! The library in its smallest build, without `arrow`, `cli`, `hub` and `report`: the recipe runs, and missing
//! features are reported. `cargo test --package caption-lora --no-default-features --test smallest` runs it; in
//! a build with those features it is empty.
#![cfg(not(any(feature = "arrow", feature = "cli", feature = "hub", feature = "report")))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use caption_lora::finetune::{self, Ending, Request, Session};
use caption_lora::hub::{Error, Hub, Location};
use caption_lora::options::{DataOptions, EvalStrategy, Finetune, LoraOptions, TrainingOptions};

fn options(data: DataOptions) -> Finetune {
    Finetune {
        data: DataOptions { subset: Some(20), ..data },
        training: TrainingOptions {
            max_steps: Some(2),
            eval_strategy: EvalStrategy::No,
            ..Default::default()
        },
        lora: LoraOptions { lora_r: Some(4), ..Default::default() },
        ..Default::default()
    }
}

#[test]
fn the_recipe_runs_without_a_report_and_a_hub_id_names_the_feature() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::new(Some(2)).unwrap();
    let run = folder.path().join("run");
    let request = Request::new(options(DataOptions { output_dir: Some(run.clone()), ..Default::default() }));
    assert_eq!(finetune::run(&request, &mut session).unwrap(), Ending::Finished);
    assert!(run.join("adapter/adapter_model.safetensors").is_file() && run.join("metrics.json").is_file());
    assert!(!run.join("report.html").exists() && !run.join("loss.svg").exists());

    assert!(matches!(Hub::from_env(), Err(Error::NotBuilt)));
    let refused = folder.path().join("refused");
    let from_hub = DataOptions {
        dataset: "owner/dataset".parse::<Location>().unwrap(),
        output_dir: Some(refused.clone()),
        ..Default::default()
    };
    let refusal = format!("{:#}", finetune::run(&Request::new(options(from_hub)), &mut session).unwrap_err());
    assert!(refusal.contains("the feature `hub`"), "{refusal}");
    assert!(!refused.exists(), "a run that did not begin leaves no folder");
}
