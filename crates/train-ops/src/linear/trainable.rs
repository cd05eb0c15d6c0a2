use candle_core::Tensor;

use super::{check_input, check_weights, with_last_dim};
use crate::{ForwardContext, LinearLayer, Result};

/// `y = x Wᵀ + b` with trainable `W` and `b`, for full fine-tuning and pre-training.
#[derive(Clone, Debug)]
pub struct TrainableLinear {
    path: String,
    weight: Tensor,
    bias: Option<Tensor>,
    out_features: usize,
    in_features: usize,
}

impl TrainableLinear {
    /// From the tensors of variables: a weight of shape `(out_features, in_features)` and a bias of shape
    /// `(out_features)`.
    pub fn new(path: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = check_weights(path, &weight, bias.as_ref())?;
        Ok(Self { path: path.to_owned(), weight, bias, out_features, in_features })
    }
}

impl LinearLayer for TrainableLinear {
    fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        check_input(&self.path, xs, self.in_features)?;
        let weight = ctx.parameter(&self.weight).to_dtype(xs.dtype())?;
        let ys = xs.reshape(((), self.in_features))?.matmul(&weight.t()?)?;
        let ys = match &self.bias {
            Some(bias) => ys.broadcast_add(&ctx.parameter(bias).to_dtype(xs.dtype())?)?,
            None => ys,
        };
        Ok(ys.reshape(with_last_dim(xs.shape(), self.out_features))?)
    }

    fn parameters(&self) -> Vec<Tensor> {
        [&self.weight].into_iter().chain(&self.bias).filter(|tensor| tensor.track_op()).cloned().collect()
    }

    fn in_features(&self) -> usize {
        self.in_features
    }

    fn out_features(&self) -> usize {
        self.out_features
    }
}
