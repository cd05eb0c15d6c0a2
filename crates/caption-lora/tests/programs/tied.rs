//! A checkpoint with tied LM head and word embedding is adapted like any other.

use crate::common::programs::run;
use crate::common::tiny::Tiny;
use candle_core::DType;
use git_model::{CaptionCheckpoint as _, Checkpoint, GitForCausalLm, LoadOptions};
use peft_lora::{LoraBuilder, LoraConfig};

#[test]
fn a_tied_head_is_the_output_layer_and_its_weight_counts_once() {
    let tiny = Tiny::new();
    tiny.tie_head();
    let numbers: usize = tiny.weights().values().map(|weight| weight.elem_count()).sum();
    for dtype in [DType::F32, DType::BF16] {
        let config = LoraConfig { target_modules: "all-linear".into(), ..LoraConfig::default() };
        let mut builder = LoraBuilder::new(config).unwrap().output_layer("output");
        let checkpoint = Checkpoint::open(&tiny.checkpoint).unwrap();
        assert!(checkpoint.tensors().tied());
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        GitForCausalLm::load_with(&checkpoint, &mut builder, &options).unwrap();
        let adapter = builder.finish().unwrap();
        let report = adapter.report();
        assert_eq!(report.total_parameters() - report.trainable_parameters(), numbers, "{dtype:?}");
        assert!(report.modules().iter().all(|module| module.path != "output"), "{report}");
    }
}

#[test]
fn a_tied_checkpoint_is_fine_tuned_and_captions_with_its_adapter() {
    let tiny = Tiny::new();
    tiny.tie_head();
    run(&mut tiny.finetune("out", "--max-steps 1 --dtype bf16")).stdout();
    let mut caption = tiny.caption("--dtype bf16 --rows 0 --dataset");
    let stdout = run(caption.arg(&tiny.dataset).arg("--adapter").arg(tiny.path("out/adapter"))).stdout();
    assert!(stdout.starts_with("row 0: "), "{stdout}");
}
