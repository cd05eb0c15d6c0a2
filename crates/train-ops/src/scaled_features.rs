use candle_core::Tensor;

use crate::attached::attach3;
use crate::{Error, Result};

/// `y = x ⊙ scale + bias`, of `xs` `(..., features)`, for a `scale` and a constant `bias` of shape `(features)`.
///
/// The result is differentiable in `xs` and `scale` if these track gradients: `dx = dy ⊙ scale`, and `dscale`
/// is the sum of `dy ⊙ x` over all rows.
///
/// # Errors
/// If a shape is not `(features)`.
pub fn scaled_features(xs: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let features = xs.dims().last().copied().unwrap_or(0);
    for (name, tensor) in [("scale", Some(scale)), ("bias", bias)] {
        if let Some(tensor) = tensor.filter(|tensor| tensor.dims() != [features]) {
            return Err(Error::Shape {
                path: format!("{name} of scaled_features"),
                expected: format!("({features})"),
                got: tensor.dims().to_vec(),
            });
        }
    }
    let (rows, factors) = (xs.detach().contiguous()?, scale.detach().to_dtype(xs.dtype())?);
    let ys = rows.broadcast_mul(&factors)?;
    let ys = match bias {
        Some(bias) => ys.broadcast_add(&bias.detach().to_dtype(xs.dtype())?)?,
        None => ys,
    };
    let scale_dtype = scale.dtype();
    let backward = move |dys: &Tensor, [of_xs, of_scale, _]: [bool; 3]| {
        let dxs = of_xs.then(|| dys.broadcast_mul(&factors)).transpose()?;
        let of_rows = || (dys * &rows)?.reshape(((), features))?.to_dtype(scale_dtype)?.sum(0);
        Ok([dxs, of_scale.then(of_rows).transpose()?, None])
    };
    // The operation's third argument is not used.
    Ok(attach3("scaled_features", [xs, scale, &scale.detach()], ys, backward)?)
}
