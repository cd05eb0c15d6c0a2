//! The main example, run as a program on a tiny checkpoint: what it prints, writes and trains.

use std::fs;
use std::path::Path;

use crate::common::programs::{contents, json, json_lines, resume, run, steps};
use crate::common::tiny::{ROWS, Tiny, drawings, tensors};
use caption_data::{CaptionSource, split};
use serde_json::Value;

/// Parameters of 4 adapters of rank 16 on 16 x 16 layers and 2 on 16 x 32: `r (in + out)` each.
const TRAINABLE: usize = 4 * 16 * (16 + 16) + 2 * 16 * (16 + 32);

fn test_rows() -> Vec<usize> {
    split(ROWS, [0.6, 0.2, 0.2], 42).unwrap().test
}

fn grouped(number: usize) -> String {
    assert!((1_000..1_000_000).contains(&number));
    format!("{},{:03}", number / 1_000, number % 1_000)
}

#[test]
fn the_set_up_is_printed_before_anything_is_trained() {
    let tiny = Tiny::new();
    let ended = run(&mut tiny.finetune("out", "--max-steps 1"));
    let warned = ended.stderr.contains("warning: this is a debug build");
    assert_eq!(warned, cfg!(debug_assertions), "{}", ended.stderr);

    let stdout = ended.stdout();
    let line = |name: &str| {
        let line = stdout.lines().map(str::trim_start).find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {stdout}")).trim().to_owned()
    };
    let total = TRAINABLE + tiny.weights().values().map(|tensor| tensor.elem_count()).sum::<usize>();
    let share = 100.0 * TRAINABLE as f64 / total as f64;
    let trainable = format!("{} of {} parameters ({share:.4} %)", grouped(TRAINABLE), grouped(total));
    assert_eq!(line("trainable"), trainable);
    assert_eq!(line("model"), tiny.checkpoint.display().to_string());
    assert_eq!(line("dataset"), tiny.dataset.display().to_string());
    assert_eq!(line("split"), "12 train, 4 validation, 4 test");
    // Defaults are listed too.
    assert_eq!(line("trained"), "LoRA r 16, alpha 32, dropout 0.05 on query, key, value, dense");
    // The second step of an epoch has the remaining two batches.
    assert_eq!(line("epochs"), "0.67 (1 step)");
    assert_eq!(line("batch"), "2 pictures x 4 accumulated = 8 a step, 4 batches at a time");
    assert_eq!(line("learning rate"), "5e-5, linear schedule, 5 % warm-up");
    assert_eq!(line("optimizer"), "AdamW, weight decay 0, gradients clipped to norm 1");
    assert_eq!(line("evaluation"), "after every epoch");
    assert_eq!(line("seed"), "42");
    assert_eq!(line("device"), "cpu, f32, 1 thread");
    assert_eq!(line("output"), tiny.path("out").display().to_string());
}

#[test]
fn the_set_up_has_what_is_not_the_default_and_as_it_was_given() {
    let tiny = Tiny::new();
    let flags = "--num-train-epochs 1 --max-steps 9 --warmup-ratio 0.07 --label-smoothing-factor 0.1 --min-lr-rate 0.2 \
         --loraplus-lr-ratio 4 --hidden-dropout 0.3 --eval-strategy steps --eval-steps 5 --padding max-length \
         --tune both --target-modules all-linear";
    let stdout = run(&mut tiny.finetune("out", flags)).stdout();
    for line in [
        "trained  LoRA r 16, alpha 32, dropout 0.05 on all-linear",
        "epochs  4.67 (9 steps)",
        "learning rate  5e-5, linear schedule to 20 %, 7 % warm-up",
        "optimizer  AdamW, weight decay 0, gradients clipped to norm 1, lora_B at 4 times the rate",
        "evaluation  after every 5 steps",
        "model dropout  0.3",
        "labels  smoothed by 0.1",
    ] {
        assert!(stdout.lines().any(|said| said.trim_start() == line), "no `{line}` in {stdout}");
    }
    assert!(stdout.contains("padding  every caption to "), "{stdout}");
}

#[test]
fn a_rewritten_checkpoint_has_one_line_of_captions() {
    let tiny = Tiny::new();
    let flags = "--num-train-epochs 3 --eval-captions 1 --save-total-limit 9";
    run(&mut tiny.finetune("out", flags)).stdout();
    let path = tiny.path("out/eval_captions.jsonl");
    let once = fs::read_to_string(&path).unwrap();
    assert_eq!(once.lines().count(), 3);
    run(&mut resume(&tiny.path("out/checkpoint-2"))).stdout();
    assert_eq!(fs::read_to_string(&path).unwrap(), once);
}

#[test]
fn a_run_of_a_sweep_has_its_own_command_in_its_report() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("sweep", "--max-steps 1 --sweep r=2,4")).stdout();
    for rank in [2, 4] {
        let report = fs::read_to_string(tiny.path(&format!("sweep/r-{rank}/report.html"))).unwrap();
        assert!(report.contains(&format!("--lora-r={rank}")) && !report.contains("--sweep"), "{rank}");
    }
}

#[test]
fn a_run_leaves_every_file_that_the_readme_lists() {
    let tiny = Tiny::new();
    let stdout = run(&mut tiny.finetune("out", "--num-train-epochs 2")).stdout();
    let out = tiny.path("out");

    check_trainer_state(&json(&out.join("trainer_state.json")), &out);
    let events = json_lines(&fs::read_to_string(out.join("log.jsonl")).unwrap());
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"started"), Some(&"finished")));
    assert_eq!(kinds.iter().filter(|kind| **kind == "checkpoint_saved").count(), 2);

    let metrics = json(&out.join("metrics.json"));
    for model in ["base", "adapter"] {
        let [loss, perplexity] = ["test_loss", "perplexity"].map(|key| metrics[model][key].as_f64().unwrap());
        assert!((loss.exp() / perplexity - 1.0).abs() < 1e-12, "{metrics}");
        assert!(stdout.contains(&format!("{loss:.4}")), "{stdout}");
    }

    let captions = json_lines(&fs::read_to_string(out.join("captions.jsonl")).unwrap());
    let rows: Vec<_> = captions.iter().map(|line| line["row"].as_u64().unwrap() as usize).collect();
    assert_eq!(rows, test_rows());
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    for line in &captions {
        let reference = drawings().caption(line["row"].as_u64().unwrap() as usize).unwrap();
        assert_eq!(line["reference"], reference.as_str());
        assert!(report.contains(&reference), "{reference}");
        assert!(line["base"].is_string() && line["adapter"].is_string());
    }
    assert!(report.contains("</html>") && report.contains("<svg") && report.contains("--num-train-epochs 2"));
    let plot = fs::read_to_string(out.join("loss.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>"));

    let strip = fs::read_to_string(out.join("captions.svg")).unwrap();
    assert_eq!(strip.matches("<image ").count(), 4);

    let config = json(&out.join("adapter/adapter_config.json"));
    assert_eq!(
        (&config["peft_type"], &config["r"], &config["lora_alpha"]),
        (&"LORA".into(), &16.into(), &32.into())
    );
    assert_eq!(config["lora_dropout"], 0.05);
    let adapter = tensors(&out.join("adapter/adapter_model.safetensors"));
    assert_eq!(adapter.values().map(|tensor| tensor.elem_count()).sum::<usize>(), TRAINABLE);

    let unfinished = contents(&out).into_iter().find(|(path, _)| path.to_str().unwrap().contains("partial"));
    assert_eq!(unfinished.map(|(path, _)| path), None);
}

/// The keys of Hugging Face's file, and their values for this run: 12 rows are 6 batches, which are 2 steps.
fn check_trainer_state(state: &Value, out: &Path) {
    assert_eq!(
        (&state["global_step"], &state["max_steps"], &state["epoch"]),
        (&4.into(), &4.into(), &2.0.into())
    );
    let best = state["best_global_step"].as_u64().unwrap();
    assert_eq!(state["best_model_checkpoint"], out.join(format!("checkpoint-{best}")).to_str().unwrap());

    let history = state["log_history"].as_array().unwrap();
    let kinds: Vec<_> = history
        .iter()
        .map(|entry| {
            ["loss", "eval_loss", "train_loss"].into_iter().find(|key| entry.get(key).is_some()).unwrap()
        })
        .collect();
    assert_eq!(kinds, ["loss", "loss", "eval_loss", "loss", "loss", "eval_loss", "train_loss"]);
    for (entry, kind) in history.iter().zip(kinds) {
        let others: &[&str] = match kind {
            "loss" => &["grad_norm", "learning_rate"],
            "eval_loss" => &["eval_runtime", "eval_samples_per_second"],
            _ => &["train_runtime", "train_samples_per_second"],
        };
        for key in [kind, "epoch", "step"].iter().chain(others) {
            assert!(entry[key].is_number(), "{key} in {entry}");
        }
    }
    let rate = |index: usize| history[index]["learning_rate"].as_f64().unwrap();
    // ceil(0.05 x 4) steps of warm-up, the first of which has rate 0; then linear decay to 0 after the last
    // step.
    assert_eq!(rate(0), 0.0);
    for (index, share) in [(1, 3.0), (3, 2.0), (4, 1.0)] {
        assert!((rate(index) - 5e-5 * share / 3.0).abs() < 1e-16, "{history:?}");
    }
    let evaluations = history.iter().filter_map(|entry| entry["eval_loss"].as_f64());
    assert_eq!(state["best_metric"].as_f64(), evaluations.reduce(f64::min));
}

#[test]
fn an_adapter_learns_and_can_initialise_the_next_run() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("first", "--num-train-epochs 4 --learning-rate 0.01")).stdout();
    let first = json(&tiny.path("first/metrics.json"));
    let loss = |metrics: &Value, model: &str| metrics[model]["test_loss"].as_f64().unwrap();
    assert!(loss(&first, "adapter") < loss(&first, "base") - 0.1, "{first}");

    // The first step has learning rate 0.
    let adapter = tiny.path("first/adapter");
    run(tiny.finetune("second", "--max-steps 1 --init-adapter").arg(&adapter)).stdout();
    assert_eq!(json(&tiny.path("second/metrics.json")), first);
}

#[test]
fn padding_to_the_maximum_changes_no_loss() {
    let tiny = Tiny::new();
    let losses = |output: &str, flags: &str| {
        let flags = format!("--num-train-epochs 2 --learning-rate 0.01 {flags}");
        let stdout = run(&mut tiny.finetune(output, &flags)).stdout();
        (steps(&tiny.path(output)), stdout.contains("padding  every caption to "))
    };
    let (longest, pads_less) = losses("longest", "");
    let (maximum, pads_all) = losses("maximum", "--padding max-length");
    assert!(!pads_less && pads_all);
    close(&longest, &maximum, "loss", 1e-6);
    close(&longest, &maximum, "grad_norm", 1e-5);
}

#[test]
fn fused_micro_batches_change_no_loss() {
    let tiny = Tiny::new();
    for tune in ["--tune text", "--tune both", "--tune text --no-feature-cache"] {
        let losses = |output: &str, fuse: &str| {
            let flags = format!(
                "--num-train-epochs 2 --learning-rate 0.01 --seed 5 --overwrite-output-dir {tune} {fuse}"
            );
            let stdout = run(&mut tiny.finetune(output, &flags)).stdout();
            let at_a_time = stdout.lines().find_map(|line| Some(line.split_once("8 a step, ")?.1.to_owned()));
            (steps(&tiny.path(output)), at_a_time.unwrap())
        };
        let (alone, one) = losses("alone", "--fuse-accumulation 1");
        let (fused, two) = losses("fused", "--fuse-accumulation 2");
        // The tiny model takes so little memory that all four are fused by default.
        let (auto, four) = losses("auto", "");
        assert_eq!([one, two, four], ["1 batch at a time", "2 batches at a time", "4 batches at a time"]);
        assert_ne!(alone, auto, "another order of sums is another rounding");
        for fused in [fused, auto] {
            close(&alone, &fused, "loss", 1e-6);
            close(&alone, &fused, "grad_norm", 1e-5);
        }
    }
}

#[test]
fn cached_image_features_change_no_loss() {
    let tiny = Tiny::new();
    let losses = |output: &str, flags: &str| {
        let flags = format!("--num-train-epochs 2 --learning-rate 0.01 {flags}");
        let stdout = run(&mut tiny.finetune(output, &flags)).stdout();
        (steps(&tiny.path(output)), stdout.contains("features  20 encoded"))
    };
    let (kept, encodes_once) = losses("kept", "");
    let (anew, keeps) = losses("anew", "--no-feature-cache");
    assert!(encodes_once && !keeps);
    close(&kept, &anew, "loss", 1e-6);
    close(&kept, &anew, "grad_norm", 1e-5);
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let tiny = Tiny::new();
    let losses = |output: &str, flags: &str| {
        let flags = format!("--num-train-epochs 2 --learning-rate 0.01 --tune both {flags}");
        let stdout = run(&mut tiny.finetune(output, &flags)).stdout();
        (steps(&tiny.path(output)), stdout.contains("memory  layers are computed again"))
    };
    let (plain, keeps) = losses("plain", "");
    let (again, computes) = losses("again", "--gradient-checkpointing");
    assert!(!keeps && computes);
    assert_eq!(plain, again);
}

#[test]
fn label_smoothing_affects_training_but_not_evaluation() {
    let tiny = Tiny::new();
    let run = |output: &str, flags: &str| {
        run(&mut tiny.finetune(output, &format!("--max-steps 2 {flags}"))).stdout();
        let base = json(&tiny.path(output).join("metrics.json"))["base"]["test_loss"].as_f64().unwrap();
        (steps(&tiny.path(output)), base)
    };
    let (plain, smoothed) = (run("plain", ""), run("smoothed", "--label-smoothing-factor 0.1"));
    assert_eq!(plain.1, smoothed.1, "the base model on the test split");
    let loss = |steps: &[Value]| steps[0]["loss"].as_f64().unwrap();
    assert!((loss(&plain.0) - loss(&smoothed.0)).abs() > 1e-4, "{plain:?}, {smoothed:?}");
}

#[test]
fn bf16_weights_learn_as_f32_ones_do() {
    let tiny = Tiny::new();
    let losses = |output: &str, dtype: &str| {
        let flags = format!("--num-train-epochs 2 --learning-rate 0.01 --dtype {dtype}");
        let stdout = run(&mut tiny.finetune(output, &flags)).stdout();
        assert!(stdout.contains(&format!("cpu, {dtype}, 1 thread")), "{stdout}");
        steps(&tiny.path(output))
    };
    let (f32, bf16) = (losses("f32", "f32"), losses("bf16", "bf16"));
    assert_ne!(f32[0]["loss"], bf16[0]["loss"], "the flag has an effect");
    // bf16 has 8 bits: 0.4 % per rounding.
    close(&f32, &bf16, "loss", 4e-3);
    for tensor in tensors(&tiny.path("bf16/adapter/adapter_model.safetensors")).values() {
        assert_eq!(tensor.dtype(), candle_core::DType::F32);
    }
}

/// Compares one number of every step, relative to itself.
fn close(left: &[Value], right: &[Value], key: &str, bound: f64) {
    assert_eq!(left.len(), right.len());
    assert!(!left.is_empty());
    for (left, right) in left.iter().zip(right) {
        let [a, b] = [left, right].map(|entry| entry[key].as_f64().unwrap());
        assert!((a - b).abs() <= bound * a.abs(), "{key}: {left} and {right}");
    }
}

#[test]
fn captions_of_a_sample_are_judged_at_each_checkpoint() {
    let tiny = Tiny::new();
    let stdout = run(&mut tiny.finetune("out", "--num-train-epochs 2 --eval-captions 3")).stdout();
    let lines = json_lines(&fs::read_to_string(tiny.path("out/eval_captions.jsonl")).unwrap());
    let printed: Vec<_> = stdout.lines().filter(|line| line.starts_with("3 captions: CIDEr-D")).collect();
    let steps: Vec<_> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert!(steps.len() == 2 && 0 < steps[0] && steps[0] < steps[1], "{steps:?}");
    assert_eq!(printed.len(), 2, "{stdout}");
    for line in &lines {
        assert!(line["scores"]["rouge_l"].is_number() && line["scores"]["distinct_2"].is_number(), "{line}");
        assert_eq!(line["captions"].as_array().unwrap().len(), 3);
    }
}
