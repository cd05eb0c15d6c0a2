//! Folders of checkpoints and adapters as found in practice and as written here: types, companion files,
//! generation_config.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::programs::{example, json, json_lines, run};
use crate::common::tiny::{Tiny, tensors};
use candle_core::{DType, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use serde_json::{Value, json};

/// A checkpoint in the layout of transformers 5: nested processor configuration, the type in config.json, and
/// some optional files.
fn of_transformers_5(tiny: &Tiny, dtype: DType, name: &str) {
    let folder = &tiny.checkpoint;
    let weights = tiny.weights().into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()));
    candle_core::safetensors::save(&weights.collect(), folder.join("model.safetensors")).unwrap();
    let mut config = json(&folder.join("config.json"));
    config["dtype"] = name.into();
    config["vision_config"]["dtype"] = name.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let flat = folder.join("preprocessor_config.json");
    let nested = json!({ "image_processor": json(&flat), "processor_class": "GitProcessor" });
    fs::write(folder.join("processor_config.json"), nested.to_string()).unwrap();
    fs::remove_file(flat).unwrap();
    let generation =
        json!({ "_from_model_config": true, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0 });
    fs::write(folder.join("generation_config.json"), generation.to_string()).unwrap();
    fs::write(folder.join("special_tokens_map.json"), json!({ "cls_token": "[CLS]" }).to_string()).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn merge(tiny: &Tiny, output: &str, flags: &[&str]) -> Command {
    let mut merge = example("merge_adapter");
    merge.arg("--model").arg(&tiny.checkpoint).arg("--adapter").arg(tiny.path("out/adapter"));
    merge.arg("--output-dir").arg(tiny.path(output)).args(flags);
    merge
}

fn merged(tiny: &Tiny, output: &str, flags: &[&str]) -> BTreeMap<String, Tensor> {
    run(&mut merge(tiny, output, flags)).stdout();
    tensors(&tiny.path(output).join("model.safetensors"))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn merging_keeps_the_type_of_the_base_and_every_companion() {
    for (dtype, name) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        let tiny = Tiny::new();
        of_transformers_5(&tiny, dtype, name);
        run(&mut tiny.finetune("out", "--max-steps 3 --learning-rate 0.02")).stdout();
        let kept = merged(&tiny, "merged", &[]);
        let wide = merged(&tiny, "wide", &["--dtype", "f32"]);
        assert_eq!(kept.len(), tiny.weights().len());
        let mut changed = 0;
        for (key, tensor) in &kept {
            assert_eq!((tensor.dtype(), wide[key].dtype()), (dtype, DType::F32), "{key}");
            // The sum is computed in f32 and rounded once.
            assert_eq!(values(tensor), values(&wide[key].to_dtype(dtype).unwrap()), "{key}");
            changed += usize::from(values(&wide[key]) != values(&tiny.weights()[key]));
        }
        assert_eq!(changed, 6, "query, key, value and three times dense");
        for (folder, type_name) in [("merged", name), ("wide", "float32")] {
            let config = json(&tiny.path(folder).join("config.json"));
            assert_eq!(config["dtype"], type_name);
            assert_eq!(config["vision_config"]["dtype"], type_name);
            assert_eq!(names(&tiny.path(folder)), names(&tiny.checkpoint));
        }
        let size = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().len();
        assert!(size(&tiny.path("merged")).abs_diff(size(&tiny.checkpoint)) < 1024);
        assert!(size(&tiny.path("wide")) > size(&tiny.path("merged")) * 3 / 2);

        let mut caption = example("caption");
        caption.args(["--threads", "1", "--rows", "0", "--model"]).arg(tiny.path("merged"));
        let said = run(caption.arg("--dataset").arg(&tiny.dataset)).stdout();
        assert!(said.starts_with("row 0: "), "{said}");
    }
}

#[test]
fn full_fine_tuning_leaves_a_checkpoint_of_the_type_of_the_base() {
    let tiny = Tiny::new();
    of_transformers_5(&tiny, DType::BF16, "bfloat16");
    run(&mut tiny.finetune("out", "--tune full --max-steps 2 --learning-rate 0.01")).stdout();
    let folder = tiny.path("out/model");
    let (before, after) = (tiny.weights(), tensors(&folder.join("model.safetensors")));
    assert!(after.values().all(|tensor| tensor.dtype() == DType::BF16));
    assert!(before.keys().eq(after.keys()));
    assert!(before.iter().any(|(name, tensor)| values(tensor) != values(&after[name])));
    assert_eq!(json(&folder.join("config.json"))["dtype"], "bfloat16");
    assert_eq!(names(&folder), names(&tiny.checkpoint));
}

#[test]
fn full_fine_tuning_refuses_a_type_and_says_how_to_get_it() {
    let tiny = Tiny::new();
    let message = run(&mut tiny.finetune("out", "--tune full --dtype bf16 --max-steps 1")).refusal(1);
    for words in ["--dtype bf16", "leave it out", "stored in the types of --model", "a bf16 checkpoint"] {
        assert!(message.contains(words), "{message}");
    }
    let message = run(&mut tiny.finetune("out", "--tune full --dtype int8 --max-steps 1")).refusal(1);
    for words in ["--dtype int8", "leave it out", "--tune both"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_an_error_that_names_it_and_its_file() {
    for value in [f32::NAN, f32::INFINITY] {
        let tiny = Tiny::new();
        let name = "git.image_encoder.vision_model.encoder.layers.0.mlp.fc1.weight";
        tiny.set_weight(name, 3, value);
        let weights = tiny.checkpoint.join("model.safetensors").display().to_string();
        let caption = run(tiny.caption("--rows 0 --dataset").arg(&tiny.dataset)).refusal(1);
        let training = run(&mut tiny.finetune("out", "--max-steps 1")).refusal(1);
        for message in [caption, training] {
            assert!(message.contains(&format!("the weight {name} in {weights} has values")), "{message}");
            assert!(
                message.contains("NaN or infinite") && message.contains("earlier checkpoint"),
                "{message}"
            );
        }
        assert!(!tiny.path("out/adapter").exists());
    }
}

#[test]
fn merging_never_mixes_two_checkpoints_in_one_folder() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 1")).stdout();
    let message = run(&mut merge(&tiny, "checkpoint", &[])).refusal(1);
    assert!(message.contains("is the folder of the model itself"), "{message}");
    fs::create_dir(tiny.path("used")).unwrap();
    fs::write(tiny.path("used/processor_config.json"), "{}").unwrap();
    merged(&tiny, "merged", &[]);
    // Regression: the files of others were replaced.
    for (folder, name) in [
        ("used", "processor_config.json"),
        ("merged", "model.safetensors"),
        ("out", "run.json"),
        ("out/adapter", "adapter_config.json"),
        ("out/checkpoint-1", "complete.json"),
    ] {
        let before = names(&tiny.path(folder));
        let message = run(&mut merge(&tiny, folder, &[])).refusal(1);
        assert!(message.contains(&format!("already has {name}")), "{message}");
        assert!(message.contains("choose another --output-dir, or remove the folder"), "{message}");
        assert_eq!(names(&tiny.path(folder)), before);
    }
}

#[test]
fn an_adapter_on_a_tied_head_cannot_be_merged() {
    let tiny = Tiny::new();
    tiny.tie_head();
    let checkpoint = git_model::Checkpoint::open(&tiny.checkpoint).unwrap();
    let config = LoraConfig { target_modules: r".*\.query|output".into(), ..LoraConfig::default() };
    let mut builder = LoraBuilder::new(config).unwrap();
    git_model::GitForCausalLm::load(&checkpoint, &mut builder).unwrap();
    builder.finish().unwrap().save(tiny.path("out/adapter")).unwrap();
    let message = run(&mut merge(&tiny, "merged", &[])).refusal(1);
    assert!(message.contains("`output`") && message.contains("tie_word_embeddings"), "{message}");
    assert!(!tiny.path("merged").exists());
}

#[test]
fn the_right_folder_is_suggested_for_its_parent_or_child() {
    let tiny = Tiny::new();
    run(&mut tiny.finetune("out", "--max-steps 1")).stdout();
    let adapter = tiny.path("out/adapter").display().to_string();
    let model = tiny.checkpoint.display().to_string();
    let says = |flags: &[&Path], words: &[&str]| {
        let mut command = example("caption");
        command.args(["--rows", "0", "--dataset"]).arg(&tiny.dataset);
        command.arg("--model").arg(flags[0]);
        flags[1..].iter().for_each(|path| {
            command.arg("--adapter").arg(path);
        });
        let message = run(&mut command).refusal(1);
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    };
    let checkpoint = tiny.checkpoint.as_path();
    says(
        &[checkpoint, &tiny.path("out")],
        &["has no adapter_config.json", &format!("give --adapter {adapter}")],
    );
    says(&[checkpoint, checkpoint], &["adapter_config.json", "given as --model"]);
    let file = tiny.path("out/adapter/adapter_model.safetensors");
    says(&[checkpoint, &file], &["is a file", &format!("the folder that it is in, {adapter}")]);
    let both = format!("--model {model} --adapter {adapter}");
    says(&[&tiny.path("out/adapter")], &["is an adapter and no checkpoint", &both]);
    says(&[&tiny.path("out")], &["has no config.json, but an adapter", &both]);
    says(&[tiny.checkpoint.parent().unwrap()], &["the checkpoint is ", &model]);
    let mut again = tiny.finetune("again", "--max-steps 1");
    let message = run(again.arg("--resume").arg(&file)).refusal(1);
    assert!(message.contains("is a file"), "{message}");
    for (folder, words) in [("out/adapter", "is an adapter and no checkpoint"), ("out", "but an adapter")] {
        let mut begun = example("pokemon_finetune");
        begun.arg("--model").arg(tiny.path(folder)).arg("--output-dir").arg(tiny.path("again"));
        let message = run(&mut begun).refusal(1);
        let meant = format!("{words}: give --model {model} --init-adapter {adapter}");
        assert!(message.contains(&meant), "{meant} in {message}");
    }
    // The same as --init-adapter.
    let mut again = tiny.finetune("again", "--max-steps 1 --init-adapter");
    let message = run(again.arg(tiny.path("out"))).refusal(1);
    assert!(message.contains(&format!("give --init-adapter {adapter}")), "{message}");
}

#[test]
fn missing_files_of_a_trainer_folder_are_named_with_their_source() {
    let tiny = Tiny::new();
    let caption = || run(tiny.caption("--rows 0 --dataset").arg(&tiny.dataset)).refusal(1);
    let tokenizer = tiny.checkpoint.join("tokenizer.json");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3910\n";
    fs::write(&tokenizer, pointer).unwrap();
    let message = caption();
    assert!(
        message.contains("tokenizer.json is a Git LFS pointer") && message.contains("git lfs pull"),
        "{message}"
    );
    fs::remove_file(tokenizer).unwrap();
    fs::remove_file(tiny.checkpoint.join("preprocessor_config.json")).unwrap();
    let message = caption();
    for words in
        ["a tokenizer (tokenizer.json or vocab.txt) and an image processor", "processing_class", "copy"]
    {
        assert!(message.contains(words), "{message}");
    }
}

/// The expected values are those of transformers with each of these files and no arguments, written by
/// `fixtures/make_generation_config.py`.
#[test]
fn generation_config_counts_as_in_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = json(&root.join("tests/fixtures/generation_config.json"));
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(caption_lora::embedded::checkpoint().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for case in golden["cases"].as_array().unwrap() {
        fs::write(folder.path().join("generation_config.json"), case["file"].to_string()).unwrap();
        let mut command = example("caption");
        command.args(["--json", "--batch-size", "3", "--model"]).arg(folder.path());
        if let Some(prompt) = case["prompt"].as_str() {
            command.args(["--prompt", prompt]);
        }
        for name in golden["pictures"].as_array().unwrap() {
            command.arg(root.join("../caption-data/tests/fixtures/images").join(name.as_str().unwrap()));
        }
        let said = json_lines(&run(&mut command).stdout());
        let ids: Vec<&Value> = said.iter().map(|line| &line["ids"]).collect();
        let expected: Vec<&Value> = case["ids"].as_array().unwrap().iter().collect();
        assert_eq!(ids, expected, "{}", case["file"]);
    }
    // Flags have precedence, and unsupported options are named.
    fs::write(folder.path().join("generation_config.json"), r#"{"max_length": 5, "suppress_tokens": [9]}"#)
        .unwrap();
    let mut command = example("caption");
    let flags = ["--dataset", "embedded", "--rows", "0", "--model"];
    let message = run(command.args(flags).arg(folder.path())).refusal(1);
    assert!(
        message.contains("generation_config.json") && message.contains("suppress_tokens is [9]"),
        "{message}"
    );
    fs::write(folder.path().join("generation_config.json"), r#"{"max_length": 5}"#).unwrap();
    let length = |flags: &[&str]| {
        let mut command = example("caption");
        command.args(["--dataset", "embedded", "--rows", "0", "--json", "--model"]).arg(folder.path());
        json_lines(&run(command.args(flags)).stdout())[0]["ids"].as_array().unwrap().len()
    };
    assert_eq!(length(&[]), 5);
    assert!(length(&["--max-new-tokens", "40"]) > 5);
}
