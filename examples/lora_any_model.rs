//! LoRA on your own model: a small network that computes one function learns another through adapters.
//!
//! ```text
//! cargo run --release --example lora_any_model
//! ```
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use train_ops::{ForwardContext, LayerBuilder, LinearLayer, sample_key};

/// The model gets its layers from a builder by path, and does not depend on whether they have adapters.
struct Network {
    layers: Vec<Arc<dyn LinearLayer>>,
    output: Arc<dyn LinearLayer>,
}

impl Network {
    fn new(builder: &mut dyn LayerBuilder) -> train_ops::Result<Self> {
        // A real model takes these from a checkpoint.
        let numbers = |count: usize, size: f64| {
            Tensor::arange(0f32, count as f32, &Device::Cpu)?.sqr()?.affine(0.7, 0.3)?.sin()? * size
        };
        let mut linear = |path: &str, rows: usize, columns: usize| {
            let weight = numbers(rows * columns, (1.0 / columns as f64).sqrt())?.reshape((rows, columns))?;
            builder.linear(path, weight, Some(numbers(rows, 0.3)?))
        };
        Ok(Self {
            layers: vec![linear("layers.0.dense", 64, 2)?, linear("layers.1.dense", 64, 64)?],
            output: linear("output", 1, 64)?,
        })
    }

    /// `(samples, 2)` to `(samples, 1)`.
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let mut xs = xs.clone();
        for layer in &self.layers {
            xs = layer.forward(&xs, ctx)?.tanh()?;
        }
        self.output.forward(&xs, ctx)
    }
}

fn main() -> anyhow::Result<()> {
    let config = LoraConfig { target_modules: "all-linear".into(), ..LoraConfig::default() };
    let mut lora = LoraBuilder::new(config)?.output_layer("output").seed(42);
    let network = Network::new(&mut lora)?;
    let adapter = lora.finish()?;
    println!("{}", adapter.report());

    // The new function: the product of two numbers, at 256 points.
    let grid: Vec<f32> = (0..16).map(|step| step as f32 / 7.5 - 1.0).collect();
    let places: Vec<f32> = grid.iter().flat_map(|x| grid.iter().flat_map(move |y| [*x, *y])).collect();
    let products: Vec<f32> = places.chunks(2).map(|place| place[0] * place[1]).collect();
    let xs = Tensor::from_vec(places, (256, 2), &Device::Cpu)?;
    let targets = Tensor::from_vec(products, (256, 1), &Device::Cpu)?;

    for step in 0..=1000 {
        let keys: Vec<u64> = (0..256).map(|sample| sample_key(42, step, sample)).collect();
        let ys = network.forward(&xs, &ForwardContext::training(keys))?;
        let loss = (ys - &targets)?.sqr()?.mean_all()?;
        if step % 250 == 0 {
            println!("step {step:4}  loss {:.4}", loss.to_scalar::<f32>()?);
        }
        let gradients = loss.backward()?;
        for (name, parameter) in adapter.parameters() {
            let gradient =
                gradients.get(&parameter).ok_or_else(|| anyhow::anyhow!("{name} got no gradient"))?;
            parameter.set(&(parameter.as_tensor() - (gradient * 0.1)?)?)?;
        }
    }

    // Python's PEFT can open the folder too.
    let folder = std::env::temp_dir().join("lora_any_model");
    adapter.save(&folder)?;
    let mut lora = LoraBuilder::from_pretrained(&folder)?;
    let reopened = Network::new(&mut lora)?;
    let adapter = lora.finish()?;
    let loss =
        || anyhow::Ok((reopened.forward(&xs, &ForwardContext::inference())? - &targets)?.sqr()?.mean_all()?);
    println!("saved in {} and opened again: loss {:.4}", folder.display(), loss()?.to_scalar::<f32>()?);
    adapter.merge()?;
    println!("merged into the weights: loss {:.4}", loss()?.to_scalar::<f32>()?);
    Ok(())
}
