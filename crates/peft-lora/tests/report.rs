//! The text of the report.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{adapted, config};
use peft_lora::{LoraBuilder, LoraConfig};
use train_ops::LayerBuilder;

#[test]
fn layers_that_differ_only_in_numbers_share_a_row() {
    let (_, adapter) = adapted(LoraConfig {
        rank_pattern: vec![("blocks.0.query".into(), 2)],
        ..config(["query", "value"])
    });
    // The base has 1,397 parameters; A and B of a layer of 8 x 8 have 16 for each rank.
    let expected = "\
trainable parameters: 352 of 1,749 (20.1258 %)
    1 x blocks.*.query  r 2, alpha 6, scale 3, 32 parameters each
    2 x blocks.*.query  r 4, alpha 6, scale 1.5, 64 parameters each
    3 x blocks.*.value  r 4, alpha 6, scale 1.5, 64 parameters each";
    assert_eq!(adapter.report().to_string(), expected);

    let first = &adapter.report().modules()[0];
    assert_eq!((first.path.as_str(), first.rank, first.scale), ("blocks.0.query", 2, 3.0));
    let elements: usize = adapter.parameters().values().map(|var| var.elem_count()).sum();
    assert_eq!(elements, adapter.report().trainable_parameters());
}

#[test]
fn a_tied_weight_counts_once() {
    let mut builder = LoraBuilder::new(config(["dense"])).unwrap();
    let zeros = |rows, columns| Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let embedding = builder.parameter("embed.weight", zeros(100, 8)).unwrap();
    builder.linear("dense", zeros(8, 8), None).unwrap();
    builder.linear("output", embedding, None).unwrap();
    let adapter = builder.finish().unwrap();
    assert_eq!(adapter.report().total_parameters(), 100 * 8 + 8 * 8 + 4 * 16);
}
