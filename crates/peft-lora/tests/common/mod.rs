//! The small model of the tests: `fixtures/net.py`, written against [`LayerBuilder`].

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use peft_lora::{Adapter, InitLoraWeights, LoraBuilder, LoraConfig, Modules};
use train_ops::{ForwardContext, LayerBuilder, LinearLayer, sample_key};

pub const LINEAR_LAYERS: usize = 17;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(name), &Device::Cpu).unwrap()
}

struct Block {
    query: Arc<dyn LinearLayer>,
    key: Arc<dyn LinearLayer>,
    value: Arc<dyn LinearLayer>,
    fc1: Arc<dyn LinearLayer>,
    fc2: Arc<dyn LinearLayer>,
}

impl Block {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Tensor {
        let run = |layer: &Arc<dyn LinearLayer>, xs: &Tensor| layer.forward(xs, ctx).unwrap();
        let gated = (run(&self.query, xs).tanh().unwrap() * run(&self.key, xs)).unwrap();
        let xs = (xs + run(&self.value, &gated)).unwrap();
        (&xs + run(&self.fc2, &run(&self.fc1, &xs).tanh().unwrap())).unwrap()
    }
}

pub struct Net {
    embed: Tensor,
    pub stem: Arc<dyn LinearLayer>,
    blocks: Vec<Block>,
    head: Arc<dyn LinearLayer>,
}

impl Net {
    /// The model with the weights of `base.safetensors`, linear weights stored as `dtype`.
    pub fn build(builder: &mut dyn LayerBuilder, dtype: DType) -> train_ops::Result<Self> {
        let weights = tensors("base.safetensors");
        let mut linear = |path: &str| {
            let weight = weights[&format!("{path}.weight")].to_dtype(dtype)?;
            builder.linear(path, weight, weights.get(&format!("{path}.bias")).cloned())
        };
        let stem = linear("stem")?;
        let blocks = (0..3)
            .map(|block| {
                Ok(Block {
                    query: linear(&format!("blocks.{block}.query"))?,
                    key: linear(&format!("blocks.{block}.key"))?,
                    value: linear(&format!("blocks.{block}.value"))?,
                    fc1: linear(&format!("blocks.{block}.mlp.fc1"))?,
                    fc2: linear(&format!("blocks.{block}.mlp.fc2"))?,
                })
            })
            .collect::<train_ops::Result<_>>()?;
        let head = linear("head")?;
        let embed = builder.parameter("embed.weight", weights["embed.weight"].clone())?;
        Ok(Self { embed, stem, blocks, head })
    }

    /// Scores of shape `(batch, tokens, 5)` for ids of shape `(batch, tokens)`.
    pub fn forward(&self, ids: &Tensor, ctx: &ForwardContext) -> Tensor {
        let (batch, tokens) = ids.dims2().unwrap();
        let xs = ctx.parameter(&self.embed).index_select(&ids.flatten_all().unwrap(), 0).unwrap();
        let xs = xs.reshape((batch, tokens, ())).unwrap();
        let mut xs = self.stem.forward(&xs, ctx).unwrap().tanh().unwrap();
        for block in &self.blocks {
            xs = block.forward(&xs, ctx);
        }
        self.head.forward(&xs, ctx).unwrap()
    }

    /// The layer `value` of a block.
    pub fn value(&self, block: usize) -> &Arc<dyn LinearLayer> {
        &self.blocks[block].value
    }

    /// The model's output in inference.
    pub fn infer(&self, ids: &Tensor) -> Tensor {
        self.forward(ids, &ForwardContext::inference())
    }
}

/// Ids of shape `(3, 4)`.
pub fn ids() -> Tensor {
    tensors("expected.safetensors")["ids"].clone()
}

/// A training pass over [`ids`].
pub fn training(step: u64) -> ForwardContext {
    ForwardContext::training((0..3).map(|sample| sample_key(7, step, sample)).collect::<Vec<_>>())
}

/// A loss whose gradient is different for each output.
pub fn loss(output: &Tensor) -> Tensor {
    (output * &tensors("expected.safetensors")["loss_weights"]).unwrap().mean_all().unwrap()
}

pub fn adapted(config: LoraConfig) -> (Net, Adapter) {
    adapted_as(config, DType::F32)
}

pub fn adapted_as(config: LoraConfig, dtype: DType) -> (Net, Adapter) {
    let mut builder = LoraBuilder::new(config).unwrap().output_layer("head").seed(1);
    let net = Net::build(&mut builder, dtype).unwrap();
    (net, builder.finish().unwrap())
}

/// An adapter configuration whose initial weights already have an effect.
pub fn config(target_modules: impl Into<Modules>) -> LoraConfig {
    LoraConfig {
        r: 4,
        lora_alpha: 6.0,
        target_modules: target_modules.into(),
        init_lora_weights: InitLoraWeights::Random,
        ..LoraConfig::default()
    }
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference between two tensors, relative to the largest value of the second.
pub fn difference(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (values(got), values(expected));
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |max, value| max.max(value.abs()));
    let difference = largest(&mut got.iter().zip(&expected).map(|(a, b)| a - b));
    assert!(got.iter().all(|value| value.is_finite()));
    difference / largest(&mut expected.iter().copied())
}

/// Changes the tensors of a saved adapter.
pub fn rewrite_tensors(
    dir: &std::path::Path,
    change: impl Fn(&mut std::collections::HashMap<String, Tensor>),
) {
    let path = dir.join("adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}
