//! The examples on a checkpoint of BLIP: everything works as with one of GIT.

use std::fs;

use crate::common::programs::{example, json, json_lines, run};
use crate::common::tiny::{Tiny, tensors};

/// Layers of one decoder block (two attentions of four layers, two of the MLP), and one of the head.
const TEXT_LAYERS: usize = 2 * 4 + 2 + 1;
/// Layers of one encoder block: qkv, projection and two of the MLP.
const VISION_LAYERS: usize = 4;

#[test]
fn each_part_is_adapted_by_its_own_targets() {
    for (tune, text, vision) in
        [("text", TEXT_LAYERS, 0), ("vision", 0, VISION_LAYERS), ("both", TEXT_LAYERS, VISION_LAYERS)]
    {
        let tiny = Tiny::blip();
        let flags = format!("--tune {tune} --max-steps 2 --learning-rate 0.01");
        run(&mut tiny.finetune("out", &flags)).stdout();
        let adapter = tensors(&tiny.path("out/adapter/adapter_model.safetensors"));
        let count = |part: &str| adapter.keys().filter(|name| name.contains(part)).count() / 2;
        assert_eq!((count("text_decoder."), count("vision_model.")), (text, vision), "--tune {tune}");
        // PEFT's CAUSAL_LM wrapper cannot call BLIP.
        assert!(json(&tiny.path("out/adapter/adapter_config.json"))["task_type"].is_null());
        let metrics = json(&tiny.path("out/metrics.json"));
        assert_ne!(metrics["base"], metrics["adapter"]);
    }
}

#[test]
fn a_merged_model_captions_as_the_model_with_its_adapter() {
    let tiny = Tiny::blip();
    run(&mut tiny.finetune("out", "--max-steps 4 --learning-rate 0.02")).stdout();
    let dataset = tiny.dataset.display().to_string();
    let flags = format!("--json --dataset {dataset} --rows 0,1,2,3,4,5");
    let adapter = tiny.path("out/adapter").display().to_string();
    let with_adapter = run(&mut tiny.caption(&format!("{flags} --adapter {adapter}"))).stdout();

    let mut merge = example("merge_adapter");
    merge.arg("--model").arg(&tiny.checkpoint).arg("--adapter").arg(tiny.path("out/adapter"));
    run(merge.arg("--output-dir").arg(tiny.path("merged"))).stdout();
    let mut caption = example("caption");
    caption.arg("--model").arg(tiny.path("merged")).args(flags.split(' '));
    let merged = run(&mut caption).stdout();

    let ids = |lines: &str| -> Vec<serde_json::Value> {
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["ids"].take())
            .collect()
    };
    assert_eq!(ids(&merged), ids(&with_adapter));
    assert!(ids(&merged).iter().all(|ids| ids[0] == 69), "captions begin with [DEC]");
}

#[test]
fn features_come_from_the_cache_and_a_resumed_run_is_the_same_run() {
    let tiny = Tiny::blip();
    let cache = tiny.path("cache").display().to_string();
    let flags = format!("--lr-scheduler-type constant --learning-rate 0.01 --feature-cache-dir {cache}");
    let whole = run(&mut tiny.finetune("whole", &format!("{flags} --max-steps 4"))).stdout();
    assert!(whole.contains("20 encoded"), "{whole}");
    let half = run(&mut tiny.finetune("half", &format!("{flags} --max-steps 2"))).stdout();
    assert!(half.contains("0 encoded, 20 from"), "{half}");

    let mut resume = example("pokemon_finetune");
    resume.arg("--resume").arg(tiny.path("half")).args(["--max-steps", "4"]);
    run(&mut resume).stdout();
    let adapter = |run: &str| fs::read(tiny.path(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter("half"), adapter("whole"));
}

#[test]
fn full_fine_tuning_writes_a_checkpoint_that_opens() {
    let tiny = Tiny::blip();
    run(&mut tiny.finetune("out", "--tune full --max-steps 2 --learning-rate 0.01")).stdout();
    let [before, after] = [tiny.checkpoint.clone(), tiny.path("out/model")]
        .map(|folder| tensors(&folder.join("model.safetensors")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let mut caption = example("caption");
    caption.arg("--model").arg(tiny.path("out/model")).args([
        "--dataset",
        "embedded",
        "--rows",
        "0",
        "--json",
    ]);
    let captions = run(&mut caption).stdout();
    assert!(captions.contains("\"ids\":[69,"), "{captions}");
    let lines = std::fs::read_to_string(tiny.path("out/captions.jsonl")).unwrap();
    assert!(!json_lines(&lines).is_empty());
}

/// A model for questions: training, answers with the adapter and merged, and refusals that name the flags.
#[test]
fn questions_are_answered_after_training_on_a_column_of_them() {
    let tiny = Tiny::blip_questions();
    let columns = "--prompt-column question --caption-column answer";
    run(&mut tiny.finetune("out", &format!("{columns} --max-steps 30 --learning-rate 0.02"))).stdout();
    let adapter = tensors(&tiny.path("out/adapter/adapter_model.safetensors"));
    let count = |part: &str| adapter.keys().filter(|name| name.contains(part)).count() / 2;
    // The question encoder has no head.
    assert_eq!((count("text_decoder."), count("text_encoder.")), (TEXT_LAYERS, TEXT_LAYERS - 1));
    let metrics = json(&tiny.path("out/metrics.json"));
    let loss = |of: &str| metrics[of]["test_loss"].as_f64().unwrap();
    assert!(loss("adapter") < loss("base"), "{metrics}");

    let dataset = tiny.dataset.display().to_string();
    let rows = format!("--json --dataset {dataset} --prompt-column question --rows 0,1,2,3");
    let adapter = tiny.path("out/adapter").display().to_string();
    let lines = |text: &str| json_lines(text);
    let with_adapter = lines(&run(&mut tiny.caption(&format!("{rows} --adapter {adapter}"))).stdout());
    let mut merge = example("merge_adapter");
    merge.arg("--model").arg(&tiny.checkpoint).arg("--adapter").arg(tiny.path("out/adapter"));
    run(merge.arg("--output-dir").arg(tiny.path("merged"))).stdout();
    let mut caption = example("caption");
    caption.arg("--model").arg(tiny.path("merged")).args(rows.split(' '));
    let merged = lines(&run(&mut caption).stdout());
    for (merged, with_adapter) in merged.iter().zip(&with_adapter) {
        assert_eq!(merged["ids"], with_adapter["ids"]);
    }

    // One question for all pictures: the text is the answer alone.
    let picture = tiny.dataset.join("0.png").display().to_string();
    let mut caption = tiny.caption(&format!("--adapter {adapter}"));
    let line = lines(&run(caption.args(["--json", "--prompt", "a picture of", &picture])).stdout()).remove(0);
    assert_eq!(line["ids"], with_adapter[0]["ids"]);
    assert!(!line["text"].as_str().unwrap().contains("picture of"), "{line}");

    let message = run(&mut tiny.caption(&picture)).refusal(1);
    assert!(message.contains("answers questions") && message.contains("--prompt-column"), "{message}");
    let message = run(&mut tiny.finetune("other", "--caption-column answer --max-steps 1")).refusal(1);
    assert!(message.contains("answers questions") && message.contains("--prompt-column"), "{message}");
}

#[test]
fn features_in_bf16_are_announced_and_change_the_losses_by_a_rounding() {
    let tiny = Tiny::blip();
    let cache = tiny.path("cache").display().to_string();
    let losses = |output: &str, flags: &str| {
        let flags = format!("--max-steps 2 --feature-cache-dir {cache} {flags}");
        let said = run(&mut tiny.finetune(output, &flags)).stdout();
        let loss = json(&tiny.path(output).join("metrics.json"))["adapter"]["test_loss"].as_f64().unwrap();
        (said, loss)
    };
    let (said, exact) = losses("exact", "");
    assert!(!said.contains("bf16"), "features of 17 tokens are stored as they are: {said}");
    let (said, rounded) = losses("rounded", "--feature-cache-dtype bf16");
    assert!(said.contains("5 x 16 numbers a picture, stored as bf16"), "{said}");
    assert!(said.contains("20 encoded, 0 from"), "features of another type are of no use: {said}");
    assert!(exact != rounded && (exact - rounded).abs() < 2e-3 * exact, "{exact} {rounded}");

    let mut resume = example("pokemon_finetune");
    resume.arg("--resume").arg(tiny.path("rounded")).args([
        "--max-steps",
        "4",
        "--feature-cache-dtype",
        "f32",
    ]);
    let message = run(&mut resume).refusal(1);
    assert!(message.contains("--feature-cache-dtype"), "{message}");
}
