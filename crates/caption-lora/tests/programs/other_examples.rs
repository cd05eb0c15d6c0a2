//! The examples other than the main two, run as programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::programs::{example, json_lines, run};
use crate::common::tiny::{Tiny, tensors};

/// The number after the last word `loss` of a line.
fn loss(line: &str) -> f64 {
    line.rsplit("loss").next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_non_transformer_network_can_be_adapted_saved_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let stdout = run(example("lora_any_model").env("TMPDIR", folder.path())).stdout();
    let line = |start: &str| loss(stdout.lines().find(|line| line.starts_with(start)).unwrap());
    let (first, last) = (line("step    0"), line("step 1000"));
    assert!(last < first / 5.0, "{stdout}");
    // Both are printed to four digits.
    assert!((line("saved in") - line("merged into")).abs() <= 1e-4, "{stdout}");
}

#[test]
fn the_engine_teaches_a_model_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(example("train_classifier").env("TMPDIR", folder.path()));
    let said = ended.stderr.clone();
    ended.stdout();
    let last = said.lines().rev().find_map(|line| Some(line.split_once("accuracy ")?.1)).unwrap();
    let accuracy: f64 = last.split_whitespace().next().unwrap().parse().unwrap();
    assert!(accuracy > 0.9, "{said}");
}

#[test]
fn the_engine_adapts_a_model_written_with_candle_nns_names_and_continues_a_finished_run() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter/adapter_model.safetensors");
    let classify = || run(example("lora_classifier").arg(folder.path()));
    classify().stdout();
    let written = fs::read(&adapter).unwrap();
    let state = fs::read_to_string(folder.path().join("run/trainer_state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    // A coin has ln 2 = 0.69.
    assert!(state["best_metric"].as_f64().unwrap() < 0.2, "{}", state["best_metric"]);
    // The same command finds the finished run and changes nothing.
    classify().stdout();
    assert_eq!(fs::read(adapter).unwrap(), written);
}

#[test]
fn a_merged_model_says_what_the_model_says_with_its_adapter() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--num-train-epochs 3 --learning-rate 0.02")).stdout();
    let mut merge = example("merge_adapter");
    merge.arg("--model").arg(&tiny.checkpoint).arg("--adapter").arg(tiny.path("out/adapter"));
    run(merge.arg("--output-dir").arg(tiny.path("merged"))).stdout();

    let mut base = 0;
    for line in json_lines(&fs::read_to_string(tiny.path("out/captions.jsonl")).unwrap()) {
        let mut caption = example("caption");
        caption.args(["--threads", "1", "--json", "--rows", &line["row"].to_string(), "--model"]);
        caption.arg(tiny.path("merged")).arg("--dataset").arg(&tiny.dataset);
        let said = json_lines(&run(&mut caption).stdout());
        assert_eq!(said[0]["text"], line["adapter"]);
        base += usize::from(said[0]["text"] == line["base"]);
    }
    assert!(base < 4, "the adapter changes what is said");
}

#[test]
fn runs_are_compared_on_a_page() {
    let tiny = Tiny::new();
    for (name, rank) in [("a", 2), ("b", 4)] {
        run(&mut tiny.finetune(name, &format!("--max-steps 1 --lora-r {rank}"))).stdout();
    }
    let page = tiny.path("pages/compare.html");
    let mut compare = example("compare_runs");
    compare.args([tiny.path("a"), tiny.path("b")]).arg("--output").arg(&page);
    let stdout = run(&mut compare).stdout();
    assert!(stdout.contains(&format!("written to {}", page.display())), "{stdout}");
    let html = fs::read_to_string(&page).unwrap();
    for text in ["<h1>2 runs compared</h1>", ">a</th>", ">b</th>", ">Base model</th>"] {
        assert!(html.contains(text), "no {text}");
    }
    let message = run(example("compare_runs").arg(tiny.path("none"))).refusal(1);
    assert!(message.contains("finished run"), "{message}");

    // The page replaces an earlier one, and no other file.
    run(&mut compare).stdout();
    let mine = tiny.path("mine.html");
    fs::write(&mine, "<h1>2 runs compared</h1>").unwrap();
    let message = run(example("compare_runs").arg(tiny.path("a")).arg("--output").arg(&mine)).refusal(1);
    assert!(message.contains("mine.html is not a page of compared runs"), "{message}");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "<h1>2 runs compared</h1>");
}

#[test]
fn the_runs_of_a_sweep_are_compared_by_its_folder() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("sweep", "--max-steps 1 --sweep r=8,16")).stdout();
    let page = tiny.path("page.html");
    let compare = || run(example("compare_runs").arg(tiny.path("sweep")).arg("--output").arg(&page));
    compare().stdout();
    let html = fs::read_to_string(&page).unwrap();
    let [first, second] = [">r-8</th>", ">r-16</th>"].map(|name| html.find(name).unwrap());
    assert!(html.contains("<h1>2 runs compared</h1>") && first < second, "in the sweep's order");

    let record = tiny.path("sweep/r-16/run.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("\"finished\"", "\"running\"")).unwrap();
    let ended = compare();
    assert!(ended.stderr.contains("r-16 is left out, as it is not finished"), "{}", ended.stderr);
    ended.stdout();
    assert!(fs::read_to_string(&page).unwrap().contains("<h1>1 run</h1>"));
    fs::remove_dir_all(tiny.path("sweep/r-8")).unwrap();
    let message = compare().refusal(1);
    assert!(message.contains("no run of the sweep in "), "{message}");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "captions 200 pictures, which takes a debug build minutes")]
fn the_command_that_made_the_embedded_checkpoint_makes_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    run(example("pretrain_monsters").args(["--steps", "2", "--batch-size", "2", "--output-dir"]).arg(&made))
        .stdout();
    let committed = caption_lora::embedded::checkpoint().unwrap();
    for name in ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let [made, committed] = [&made, &committed].map(|dir| fs::read_to_string(dir.join(name)).unwrap());
        assert!(made == committed, "{name} differs");
    }
    let shapes = |dir: &Path| -> BTreeMap<String, Vec<usize>> {
        let tensors = tensors(&dir.join("model.safetensors"));
        tensors.into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
    };
    assert_eq!(shapes(&made), shapes(&committed));
}
