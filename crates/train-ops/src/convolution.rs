use candle_core::{Tensor, bail};

use crate::{ForwardContext, FrozenLinear, LinearLayer as _, Result, TrainableLinear};

/// A convolution over height and width as a product with unfolded windows, differentiable in its input, its weight and its bias.
///
/// Candle-core's own backward pass also computes the gradient of a frozen weight, and in version 0.11 it
/// assumes that height and width are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Number of zeros added on both sides, in height and in width.
    pub padding: [usize; 2],
    /// Distance from one window to the next.
    pub stride: usize,
    /// Distance from one element of a window to the next.
    pub dilation: usize,
    /// The number of groups that the channels are divided into.
    pub groups: usize,
}

impl Convolution {
    /// The convolution of `xs` `(batch, in_channels, height, width)` with a weight `(out_channels, in_channels / groups, _, _)` and
    /// a bias `(out_channels)`, which are constants unless they track gradients.
    ///
    /// # Errors
    /// If shapes do not fit, or a window does not fit the padded input.
    pub fn forward(&self, xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (out_channels, _, height, width) = weight.dims4()?;
        let (batch, in_channels, ..) = xs.dims4()?;
        let [pad_height, pad_width] = self.padding;
        let xs = xs.pad_with_zeros(2, pad_height, pad_height)?.pad_with_zeros(3, pad_width, pad_width)?;
        let (padded_height, padded_width) = (xs.dim(2)?, xs.dim(3)?);
        let rows = self.starts(padded_height, height)?;
        let columns = self.starts(padded_width, width)?;
        // For each window, the indices of its elements in the padded picture.
        let mut places = Vec::with_capacity(rows.len() * columns.len() * height * width);
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                places.push(((row + y * self.dilation) * padded_width + column + x * self.dilation) as u32);
            }
        }
        let windows = rows.len() * columns.len();
        let places = Tensor::from_vec(places, windows * height * width, xs.device())?;
        let unfolded = xs.flatten_from(2)?.contiguous()?.index_select(&places, 2)?;
        let unfolded = unfolded.reshape((batch, in_channels, windows, height * width))?.transpose(1, 2)?;

        let (of_input, of_output) = (in_channels / self.groups, out_channels / self.groups);
        let group = |group: usize| {
            let xs = unfolded.narrow(2, group * of_input, of_input)?.contiguous()?.flatten_from(2)?;
            let weight = weight.narrow(0, group * of_output, of_output)?.flatten_from(1)?;
            let bias = bias.map(|bias| bias.narrow(0, group * of_output, of_output)).transpose()?;
            linear(&xs, weight, bias)
        };
        let ys = match self.groups {
            1 => group(0)?,
            groups => Tensor::cat(&(0..groups).map(group).collect::<Result<Vec<_>>>()?, 2)?,
        };
        Ok(ys.transpose(1, 2)?.contiguous()?.reshape((batch, out_channels, rows.len(), columns.len()))?)
    }

    /// Where the windows of `kernel` elements begin along a padded dimension.
    fn starts(&self, length: usize, kernel: usize) -> candle_core::Result<Vec<usize>> {
        let window = self.dilation * kernel.saturating_sub(1) + 1;
        if length < window || self.stride == 0 {
            bail!(
                "a convolution of windows of {window} and stride {} does not fit a length of {length}",
                self.stride
            )
        }
        Ok((0..=length - window).step_by(self.stride).collect())
    }
}

/// `x Wᵀ + b`, with gradients of the weight and the bias if they track gradients.
fn linear(xs: &Tensor, weight: Tensor, bias: Option<Tensor>) -> Result<Tensor> {
    let ctx = ForwardContext::training([]);
    match weight.track_op() || bias.as_ref().is_some_and(Tensor::track_op) {
        true => TrainableLinear::new("convolution", weight, bias)?.forward(xs, &ctx),
        false => FrozenLinear::new("convolution", weight, bias)?.forward(xs, &ctx),
    }
}
