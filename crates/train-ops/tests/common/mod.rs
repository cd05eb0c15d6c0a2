//! Helpers of several tests.

use candle_core::{Device, Shape, Tensor, Var};
use train_ops::{
    AdaptedLinear, Dropout, ForwardContext, FrozenLinear, LinearLayer, LoraWeights, Result, lora_linear,
    sample_key,
};

/// Fixed values in (-1, 1) without structure.
pub(crate) fn values(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let value = |i| (sample_key(seed, 0, i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    Tensor::from_vec((0..shape.elem_count() as u64).map(value).collect::<Vec<_>>(), shape, &Device::Cpu)
        .unwrap()
}

/// A frozen layer with an adapter, which may keep to itself that it is one.
#[derive(Clone, Debug)]
pub(crate) struct Adapted {
    pub(crate) base: FrozenLinear,
    pub(crate) a: Var,
    pub(crate) b: Var,
    pub(crate) dropout: Dropout,
    pub(crate) known: bool,
}

impl Adapted {
    pub(crate) fn new(seed: u64, n_in: usize, n_out: usize, known: bool) -> Self {
        let path = format!("layer{seed}");
        let scale = 1.0 / (n_in as f64).sqrt();
        let weight = (values(seed, (n_out, n_in)) * scale).unwrap();
        Self {
            base: FrozenLinear::new(&path, weight, Some(values(seed + 100, n_out))).unwrap(),
            a: Var::from_tensor(&(values(seed + 200, (2, n_in)) * scale).unwrap()).unwrap(),
            b: Var::from_tensor(&values(seed + 300, (n_out, 2))).unwrap(),
            dropout: Dropout::new(&path, 0.2).unwrap(),
            known,
        }
    }

    pub(crate) fn lora(&self) -> LoraWeights<'_> {
        LoraWeights { a: self.a.as_tensor(), b: self.b.as_tensor(), scale: 0.7, dropout: &self.dropout }
    }
}

impl LinearLayer for Adapted {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        lora_linear(xs, &self.base, self.lora(), ctx)
    }

    fn adapted(&self, _ctx: &ForwardContext) -> Result<Option<AdaptedLinear>> {
        self.known.then(|| AdaptedLinear::new(&self.base, Some(self.lora()))).transpose()
    }

    fn parameters(&self) -> Vec<Tensor> {
        vec![self.a.as_tensor().clone(), self.b.as_tensor().clone()]
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}
