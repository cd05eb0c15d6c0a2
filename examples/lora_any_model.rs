//! LoRA on a model of your own: here a small network that knows one function and is taught another.
//!
//! ```text
//! cargo run --release --example lora_any_model
//! ```

use std::sync::Arc;

use candle_core::{Device, Tensor};
use peft_lora::{LoraBuilder, LoraConfig};
use train_ops::{LayerBuilder, LinearLayer, Pass, sample_key};

/// The model asks a builder for its layers by path, and does not know whether they carry adapters.
struct Network {
    layers: Vec<Arc<dyn LinearLayer>>,
    output: Arc<dyn LinearLayer>,
}

impl Network {
    fn new(builder: &mut dyn LayerBuilder) -> train_ops::Result<Self> {
        // A real model takes these from a checkpoint.
        let weight = |rows: usize, columns: usize| {
            let numbers = Tensor::arange(0f32, (rows * columns) as f32, &Device::Cpu)?;
            numbers.affine(12.9, 78.2)?.sin()?.reshape((rows, columns))? / (columns as f64).sqrt()
        };
        let mut linear = |path: &str, rows, columns| builder.linear(path, weight(rows, columns)?, None);
        Ok(Self {
            layers: vec![linear("layers.0.dense", 64, 2)?, linear("layers.1.dense", 64, 64)?],
            output: linear("output", 1, 64)?,
        })
    }

    /// `(samples, 2)` to `(samples, 1)`.
    fn forward(&self, xs: &Tensor, pass: &Pass) -> train_ops::Result<Tensor> {
        let mut xs = xs.clone();
        for layer in &self.layers {
            xs = layer.forward(&xs, pass)?.tanh()?;
        }
        self.output.forward(&xs, pass)
    }
}

fn main() -> anyhow::Result<()> {
    let config =
        LoraConfig { r: 4, lora_alpha: 8.0, target_modules: "all-linear".into(), ..LoraConfig::default() };
    let mut lora = LoraBuilder::new(config)?.output_layer("output").seed(42);
    let network = Network::new(&mut lora)?;
    let adapter = lora.finish()?;
    println!("{}", adapter.report());

    // The new function: the product of two numbers, at 256 places.
    let grid: Vec<f32> = (0..16).map(|step| step as f32 / 7.5 - 1.0).collect();
    let places: Vec<[f32; 2]> = grid.iter().flat_map(|x| grid.iter().map(move |y| [*x, *y])).collect();
    let products: Vec<[f32; 1]> = places.iter().map(|[x, y]| [x * y]).collect();
    let xs = Tensor::from_vec(places.concat(), (256, 2), &Device::Cpu)?;
    let targets = Tensor::from_vec(products.concat(), (256, 1), &Device::Cpu)?;

    for step in 0..=2000 {
        let keys: Vec<u64> = (0..256).map(|sample| sample_key(42, step, sample)).collect();
        let ys = network.forward(&xs, &Pass::training(keys))?;
        let loss = (ys - &targets)?.sqr()?.mean_all()?;
        if step % 500 == 0 {
            println!("step {step:4}  loss {:.4}", loss.to_scalar::<f32>()?);
        }
        let gradients = loss.backward()?;
        for (name, parameter) in adapter.parameters() {
            let gradient =
                gradients.get(&parameter).ok_or_else(|| anyhow::anyhow!("{name} got no gradient"))?;
            parameter.set(&(parameter.as_tensor() - (gradient * 0.2)?)?)?;
        }
    }

    // The folder opens here and in Python's PEFT.
    let folder = std::env::temp_dir().join("lora_any_model");
    adapter.save(&folder)?;
    let mut lora = LoraBuilder::from_pretrained(&folder)?;
    let reopened = Network::new(&mut lora)?;
    let adapter = lora.finish()?;
    let separate = reopened.forward(&xs, &Pass::inference())?;
    adapter.merge()?;
    let merged = reopened.forward(&xs, &Pass::inference())?;
    let difference = (separate - merged)?.abs()?.max_all()?.to_scalar::<f32>()?;
    println!(
        "saved to {}, opened again; merging changes outputs by at most {difference:.1e}",
        folder.display()
    );
    for (path, effect) in adapter.effect()? {
        println!("{path}: the update has {:.0} % of the weight's norm", 100.0 * effect);
    }
    Ok(())
}
