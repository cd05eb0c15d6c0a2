//! Variants of LoRA: the tensors that they train and save, the same captions after saving and opening, and
//! exact resume.

use std::fs;
use std::path::Path;

use crate::common::programs::{example, json, json_lines, resume, run};
use crate::common::tiny::{Tiny, tensors};

const FLAGS: &str = "--max-steps 4 --learning-rate 0.02 --lora-r 2 --save-strategy steps --save-steps 2";

/// Trains with the flags and checks that the saved adapter captions as the run did, merged too. Returns the names of its tensors.
fn trained(tiny: &Tiny, flags: &str) -> Vec<String> {
    let stdout = run(&mut tiny.finetune("out", &format!("{FLAGS} {flags}"))).stdout();
    assert!(stdout.contains("adapter/"), "{stdout}");
    let metrics = json(&tiny.path("out/metrics.json"));
    assert_ne!(metrics["base"], metrics["adapter"], "{flags}");
    let lines = json_lines(&fs::read_to_string(tiny.path("out/captions.jsonl")).unwrap());
    let adapter = tiny.path("out/adapter");
    let captions = |model: &Path, adapter: Option<&Path>| {
        for line in &lines {
            let mut caption = example("caption");
            caption.args(["--threads", "1", "--json", "--model"]).arg(model);
            adapter.map(|adapter| caption.arg("--adapter").arg(adapter));
            caption.arg("--dataset").arg(&tiny.dataset).args(["--rows", &line["row"].to_string()]);
            let said = json_lines(&run(&mut caption).stdout());
            assert_eq!(said[0]["text"], line["adapter"], "{flags}");
        }
    };
    captions(&tiny.checkpoint, Some(&adapter));
    let mut merge = example("merge_adapter");
    merge.arg("--model").arg(&tiny.checkpoint).arg("--adapter").arg(&adapter);
    run(merge.arg("--output-dir").arg(tiny.path("merged"))).stdout();
    captions(&tiny.path("merged"), None);
    tensors(&tiny.path("out/adapter/adapter_model.safetensors")).into_keys().collect()
}

/// Continues the run of [`trained`] from its second step: the adapter must have the same bytes.
fn is_resumed_exactly(tiny: &Tiny, flags: &str) {
    let file = tiny.path("out/adapter/adapter_model.safetensors");
    let finished = fs::read(&file).unwrap();
    fs::remove_dir_all(tiny.path("out/checkpoint-4")).unwrap();
    run(&mut resume(&tiny.path("out/checkpoint-2"))).stdout();
    assert!(fs::read(&file).unwrap() == finished, "{flags}: the resumed run ended elsewhere");
}

#[test]
fn dora_saves_magnitudes() {
    let tiny = Tiny::new();
    let names = trained(&tiny, "--use-dora");
    let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    assert_eq!(
        (count("lora_magnitude_vector"), count("lora_A.weight"), names.len()),
        (6, 6, 18),
        "{names:?}"
    );
    is_resumed_exactly(&tiny, "--use-dora");
}

#[test]
fn pissa_and_olora_are_saved_as_lora_of_twice_the_rank_for_the_original_weights() {
    for method in ["pissa", "pissa_niter_8", "olora"] {
        let tiny = Tiny::new();
        let flags = format!("--init-lora-weights {method}");
        trained(&tiny, &flags);
        let config = json(&tiny.path("out/adapter/adapter_config.json"));
        assert_eq!((&config["r"], &config["init_lora_weights"]), (&4.into(), &true.into()), "{method}");
        is_resumed_exactly(&tiny, &flags);
    }
}

#[test]
fn biases_and_whole_modules_are_trained_and_saved_with_the_adapter() {
    let tiny = Tiny::new();
    let flags = "--bias lora_only --modules-to-save attention.output.LayerNorm --use-rslora";
    let names = trained(&tiny, flags);
    let ends = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    // Query, key, value and three times dense; the norm's weight and bias.
    assert_eq!((ends(".bias"), ends("LayerNorm.weight")), (6 + 1, 1), "{names:?}");
    is_resumed_exactly(&tiny, flags);
    assert!(trained(&Tiny::new(), "--lora-bias").iter().any(|name| name.ends_with("lora_B.bias")));
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let tiny = Tiny::new();
    let refusal = |flags: &str, code| run(&mut tiny.finetune("out", flags)).refusal(code);
    for (flags, code, message) in [
        ("--bias all", 1, "use --bias lora_only, or --tune both"),
        ("--use-dora --tune full", 2, "--use-dora does nothing with --tune full"),
        ("--init-lora-weights corda", 2, "init_lora_weights"),
        ("--bias some", 2, "lora_only"),
        ("--use-dora --init-lora-weights pissa", 1, "use_dora"),
    ] {
        let said = refusal(flags, code);
        assert!(said.contains(message), "{flags}: {said}");
        assert!(!tiny.path("out").exists(), "{flags}");
    }
    trained(&tiny, "--use-dora");
    let adapter = tiny.path("out/adapter");
    let flags = format!("--init-adapter {} --bias lora_only", adapter.display());
    let said = run(&mut tiny.finetune("other", &flags)).refusal(1);
    assert!(said.contains("--bias disagrees with the adapter"), "{said}");
}
