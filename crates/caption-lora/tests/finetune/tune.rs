//! `--tune`: each part of the model can be trained, and the other parts stay frozen.

use crate::common::programs::{json, run};
use crate::common::tiny::{Tiny, tensors};
use candle_core::Tensor;

const VISION: &str = "base_model.model.git.image_encoder.";
const TEXT: &str = "base_model.model.git.encoder.";

/// Layers of one decoder block: query, key, value, three times dense.
const TEXT_LAYERS: usize = 6;
/// Layers of one encoder block: four projections and two of the MLP.
const VISION_LAYERS: usize = 6;

fn largest(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Trains for three steps and returns how many layers of each part have an adapter that changed.
fn adapted(tune: &str) -> (usize, usize) {
    let tiny = Tiny::new();
    let flags = format!("--tune {tune} --max-steps 3 --learning-rate 0.01");
    let stdout = run(&mut tiny.finetune("out", &flags)).stdout();
    assert!(stdout.contains("adapter/"), "{stdout}");
    let adapter = tensors(&tiny.path("out/adapter/adapter_model.safetensors"));
    for (name, tensor) in adapter.iter().filter(|(name, _)| name.ends_with("lora_B.weight")) {
        assert!(largest(tensor) > 0.0, "{name} is as it began");
    }
    let metrics = json(&tiny.path("out/metrics.json"));
    assert_ne!(metrics["base"], metrics["adapter"]);
    let layers = |part: &str| adapter.keys().filter(|name| name.starts_with(part)).count() / 2;
    assert_eq!(2 * (layers(TEXT) + layers(VISION)), adapter.len(), "{:?}", adapter.keys());
    (layers(TEXT), layers(VISION))
}

#[test]
fn text_adapts_the_decoder_alone() {
    assert_eq!(adapted("text"), (TEXT_LAYERS, 0));
}

#[test]
fn vision_adapts_the_encoder_alone() {
    assert_eq!(adapted("vision"), (0, VISION_LAYERS));
}

#[test]
fn both_adapts_both() {
    assert_eq!(adapted("both"), (TEXT_LAYERS, VISION_LAYERS));
}

#[test]
fn the_report_names_only_the_adapted_parts() {
    let tiny = Tiny::new();
    for (modules, part) in [("query", "its text decoder"), ("q_proj", "its vision encoder")] {
        let flags = format!("--tune both --target-modules {modules} --max-steps 1 --overwrite-output-dir");
        run(&mut tiny.finetune("out", &flags)).stdout();
        let report = std::fs::read_to_string(tiny.path("out/report.html")).unwrap();
        assert!(report.contains(&format!("with LoRA adapters in {part} on ")), "{modules}");
    }
}

#[test]
fn full_trains_every_weight_and_leaves_a_checkpoint_that_captions() {
    let tiny = Tiny::new();
    let flags = "--tune full --max-steps 3 --learning-rate 0.001";
    let stdout = run(&mut tiny.finetune("out", flags)).stdout();
    assert!(stdout.contains("(100.0000 %)") && stdout.contains("model/"), "{stdout}");
    assert!(!tiny.path("out/adapter").exists());

    let (before, after) = (tiny.weights(), tensors(&tiny.path("out/model/model.safetensors")));
    assert!(before.keys().eq(after.keys()));
    for (name, tensor) in &before {
        assert!(largest(&(tensor - &after[name]).unwrap()) > 0.0, "{name} is as it began");
    }
    // The new checkpoint is complete: its captions are those at the end of the run.
    let captions = std::fs::read_to_string(tiny.path("out/captions.jsonl")).unwrap();
    for line in crate::common::programs::json_lines(&captions) {
        let mut caption = crate::common::programs::example("caption");
        caption.args(["--threads", "1", "--json", "--model"]).arg(tiny.path("out/model"));
        caption.arg("--dataset").arg(&tiny.dataset).args(["--rows", &line["row"].to_string()]);
        let said = crate::common::programs::json_lines(&run(&mut caption).stdout());
        assert_eq!(said[0]["text"], line["adapter"]);
    }
}

#[test]
fn an_adapter_on_the_output_layer_has_dropout_that_no_batching_changes() {
    let tiny = Tiny::new();
    let losses = |output: &str, batches: &str| {
        let flags = format!(
            "--target-modules .*query|output --lora-dropout 0.3 --learning-rate 0.01 --max-steps 4 {batches}"
        );
        run(&mut tiny.finetune(output, &flags)).stdout();
        let steps = crate::common::programs::steps(&tiny.path(output));
        steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let pairs = losses("pairs", "--per-device-train-batch-size 2 --gradient-accumulation-steps 2");
    let fours = losses("fours", "--per-device-train-batch-size 4 --gradient-accumulation-steps 1");
    assert_eq!((pairs.len(), fours.len()), (4, 4));
    assert!(pairs.iter().zip(&fours).all(|(a, b)| (a - b).abs() < 1e-5), "{pairs:?} {fours:?}");
    let adapter = tensors(&tiny.path("pairs/adapter/adapter_model.safetensors"));
    assert!(largest(&adapter["base_model.model.output.lora_B.weight"]) > 0.0);
}
