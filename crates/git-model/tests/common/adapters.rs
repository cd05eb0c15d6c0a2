//! LoRA adapters with given weights, without peft-lora.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;
use train_ops::{Dropout, ForwardContext, FrozenLinear, LayerBuilder, LinearLayer, LoraWeights, lora_linear};

/// A layer builder that adapts the layers whose paths end with a target, as PEFT does.
pub(crate) struct GivenAdapters {
    targets: Vec<String>,
    scale: f64,
    weights: HashMap<String, Tensor>,
}

impl GivenAdapters {
    /// From `targets`, `alpha` and `r` of a fixture and the tensors by their keys in PEFT's file.
    pub(crate) fn new(facts: &Value, weights: HashMap<String, Tensor>) -> Self {
        let targets = facts["targets"].as_array().unwrap();
        Self {
            targets: targets.iter().map(|target| target.as_str().unwrap().to_owned()).collect(),
            scale: facts["alpha"].as_f64().unwrap() / facts["r"].as_f64().unwrap(),
            weights,
        }
    }
}

#[derive(Debug)]
struct GivenAdapter {
    base: FrozenLinear,
    a: Tensor,
    b: Tensor,
    scale: f64,
    dropout: Dropout,
}

impl LinearLayer for GivenAdapter {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let lora = LoraWeights { a: &self.a, b: &self.b, scale: self.scale, dropout: &self.dropout };
        lora_linear(xs, &self.base, lora, ctx)
    }

    fn parameters(&self) -> Vec<Tensor> {
        vec![self.a.clone(), self.b.clone()]
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}

impl LayerBuilder for GivenAdapters {
    fn linear(
        &mut self,
        path: &str,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> train_ops::Result<Arc<dyn LinearLayer>> {
        let base = FrozenLinear::new(path, weight, bias)?;
        if !self.targets.iter().any(|target| path.ends_with(&format!(".{target}"))) {
            return Ok(Arc::new(base));
        }
        let [a, b] = ["lora_A", "lora_B"]
            .map(|kind| self.weights[&format!("base_model.model.{path}.{kind}.weight")].clone());
        Ok(Arc::new(GivenAdapter { base, a, b, scale: self.scale, dropout: Dropout::new(path, 0.0)? }))
    }

    fn parameter(&mut self, _path: &str, value: Tensor) -> train_ops::Result<Tensor> {
        Ok(value)
    }
}
