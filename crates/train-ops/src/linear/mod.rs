//! Linear layers: frozen, frozen with a low-rank adapter, and trainable. [`lora`] has the mathematics of adapters.

mod adapted;
mod frozen;
mod int8;
mod lora;
mod operation;
mod snapshot;
mod trainable;
mod weight;

use candle_core::{Shape, Tensor};

pub use adapted::AdaptedLinear;
pub(crate) use adapted::RowLinear;
pub use frozen::FrozenLinear;
pub(crate) use lora::LoraGradients;
pub use operation::{LoraWeights, lora_linear};
pub use snapshot::{int8_snapshot, snapshot};
pub use trainable::TrainableLinear;
pub(crate) use weight::{LayerInput, PackedWeight};

use crate::{Error, Result};

/// Checks a weight of `(out_features, in_features)` and its bias; returns `(out_features, in_features)`.
fn check_weights(path: &str, weight: &Tensor, bias: Option<&Tensor>) -> Result<(usize, usize)> {
    let shape_error = |suffix: &str, expected: String, got: &Tensor| Error::Shape {
        path: format!("{path}.{suffix}"),
        expected,
        got: got.dims().to_vec(),
    };
    let &[out_features, in_features] = weight.dims() else {
        return Err(shape_error("weight", "(out_features, in_features)".to_owned(), weight));
    };
    if out_features == 0 || in_features == 0 {
        return Err(shape_error(
            "weight",
            "(out_features, in_features), neither of them 0".to_owned(),
            weight,
        ));
    }
    match bias {
        Some(bias) if bias.dims() != [out_features] => {
            Err(shape_error("bias", format!("({out_features})"), bias))
        }
        _ => Ok((out_features, in_features)),
    }
}

/// Checks that `xs` has shape `(..., in_features)`.
fn check_input(path: &str, xs: &Tensor, in_features: usize) -> Result<()> {
    if xs.dims().last() == Some(&in_features) {
        return Ok(());
    }
    Err(Error::Shape {
        path: format!("input of {path}"),
        expected: format!("(..., {in_features})"),
        got: xs.dims().to_vec(),
    })
}

/// `shape` with its last dimension replaced.
fn with_last_dim(shape: &Shape, last: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    if let Some(dim) = dims.last_mut() {
        *dim = last;
    }
    Shape::from(dims)
}
