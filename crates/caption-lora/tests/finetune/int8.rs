//! `--dtype int8`: frozen weights and their inputs are quantised to 8 bits.

use std::fs;

use crate::common::programs::{json, resume, run, steps};
use crate::common::tiny::{Tiny, tensors};

fn losses(tiny: &Tiny, output: &str) -> Vec<f64> {
    steps(&tiny.path(output)).iter().map(|step| step["loss"].as_f64().unwrap()).collect()
}

#[test]
fn int8_weights_learn_as_f32_ones_do_and_the_results_say_so() {
    let tiny = Tiny::new();
    let finetune = |output: &str, dtype: &str| {
        let flags = format!("--num-train-epochs 2 --learning-rate 0.01 --dtype {dtype}");
        run(&mut tiny.finetune(output, &flags)).stdout()
    };
    finetune("f32", "f32");
    let stdout = finetune("int8", "int8");
    assert!(stdout.contains("cpu, int8, 1 thread"), "{stdout}");
    let (f32, int8) = (losses(&tiny, "f32"), losses(&tiny, "int8"));
    assert!(f32.len() == int8.len() && f32 != int8);
    for (f32, int8) in f32.iter().zip(&int8) {
        assert!((int8 / f32 - 1.0).abs() < 0.02, "{int8}, not {f32}");
    }
    let note = "computed in 8 bits";
    let metrics = json(&tiny.path("int8/metrics.json"));
    assert!(metrics["warnings"].to_string().contains(note), "{metrics}");
    assert!(stdout.contains(note), "{stdout}");
    assert!(fs::read_to_string(tiny.path("int8/report.html")).unwrap().contains("int8"));
    assert!(!json(&tiny.path("f32/metrics.json"))["warnings"].to_string().contains(note));
    // The adapter is one like any other.
    let names = |output: &str| {
        let tensors = tensors(&tiny.path(output).join("adapter/adapter_model.safetensors"));
        tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.dims().to_vec(), tensor.dtype()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("int8"), names("f32"));
    let config =
        |output: &str| fs::read_to_string(tiny.path(output).join("adapter/adapter_config.json")).unwrap();
    assert_eq!(config("int8"), config("f32"));
}

/// GIT and BLIP, with adapters of every kind and in the encoder too, learn as in f32 and save the same tensors
/// as in f32.
#[test]
fn variants_of_lora_and_blip_train_on_int8() {
    for (model, flags) in [
        (Tiny::new as fn() -> Tiny, "--use-dora"),
        (Tiny::new, "--init-lora-weights pissa --lora-r 2"),
        (Tiny::new, "--tune both --bias lora_only"),
        (Tiny::blip, "--tune both"),
        (Tiny::blip, "--use-dora"),
    ] {
        let tiny = model();
        for dtype in ["f32", "int8"] {
            let flags = format!("--max-steps 8 --learning-rate 0.01 --dtype {dtype} {flags}");
            run(&mut tiny.finetune(dtype, &flags)).stdout();
        }
        let (f32, int8) = (losses(&tiny, "f32"), losses(&tiny, "int8"));
        assert!(f32.len() == int8.len() && f32 != int8, "{flags}");
        assert!(int8.last() < int8.first(), "{flags}: {int8:?}");
        for (f32, int8) in f32.iter().zip(&int8) {
            assert!((int8 / f32 - 1.0).abs() < 0.02, "{flags}: {int8}, not {f32}");
        }
        let saved = |dtype: &str| {
            let file = tiny.path(dtype).join("adapter/adapter_model.safetensors");
            tensors(&file)
                .into_iter()
                .map(|(name, tensor)| (name, tensor.dims().to_vec()))
                .collect::<Vec<_>>()
        };
        assert_eq!(saved("int8"), saved("f32"), "{flags}");
    }
}

#[test]
fn an_int8_run_is_resumed_to_the_same_bits() {
    let tiny = Tiny::new();
    for output in ["whole", "halves"] {
        run(&mut tiny.finetune(output, "--num-train-epochs 4 --learning-rate 0.01 --dtype int8")).stdout();
    }
    for step in [6, 8] {
        fs::remove_dir_all(tiny.path(&format!("halves/checkpoint-{step}"))).unwrap();
    }
    let resumed = run(&mut resume(&tiny.path("halves")));
    assert!(resumed.stderr.contains("resumed after step 4 from"), "{}", resumed.stderr);
    for file in ["adapter/adapter_model.safetensors", "metrics.json", "captions.jsonl"] {
        let [halves, whole] = ["halves", "whole"].map(|run| fs::read(tiny.path(run).join(file)).unwrap());
        assert!(halves == whole, "{file} differs");
    }
}
