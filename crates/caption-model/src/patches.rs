use candle_core::Tensor;
use train_ops::{ForwardContext, FrozenLinear, LinearLayer};

use crate::{Error, Loader, Result};

/// The patch convolution of a vision transformer, whose stride is its kernel size, as one matrix product over the patches.
#[derive(Debug)]
pub struct PatchEmbedding {
    kernel: Kernel,
    image_size: usize,
    patch_size: usize,
    channels: usize,
    width: usize,
}

/// The convolution's kernel, stored as `(width, channels, patch, patch)`, and its bias.
#[derive(Debug)]
enum Kernel {
    /// A linear layer over the values of a patch.
    Frozen(FrozenLinear),
    /// A variable of the stored shape.
    Trained(Tensor, Option<Tensor>),
}

impl PatchEmbedding {
    /// The convolution at `path`, with a bias or without, for pictures of `image_size` pixels in height and width, of which
    /// whole patches are read.
    ///
    /// # Errors
    /// If a tensor cannot be read or the builder refuses it.
    pub fn load(path: &str, with_bias: bool, image_size: usize, loader: &mut Loader<'_>) -> Result<Self> {
        let kernel = loader.parameter(&format!("{path}.weight"))?;
        let bias = match with_bias {
            true => Some(loader.parameter(&format!("{path}.bias"))?),
            false => None,
        };
        let (width, channels, _, patch_size) = kernel.dims4()?;
        let trained = kernel.track_op() || bias.as_ref().is_some_and(Tensor::track_op);
        let kernel = match trained {
            true => Kernel::Trained(kernel, bias),
            false => Kernel::Frozen(FrozenLinear::new(path, kernel.flatten_from(1)?, bias)?),
        };
        Ok(Self { kernel, image_size, patch_size, channels, width })
    }

    /// The patches of `pixel_values` `(batch, channels, image_size, image_size)`, row by row: `(batch, patches, width)`.
    ///
    /// # Errors
    /// If `pixel_values` has another shape.
    pub fn forward(&self, pixel_values: &Tensor, ctx: &ForwardContext) -> Result<Tensor> {
        let (channels, size, patch) = (self.channels, self.image_size, self.patch_size);
        let batch = match pixel_values.dims() {
            &[batch, c, h, w] if (c, h, w) == (channels, size, size) => batch,
            got => {
                return Err(Error::Shape {
                    input: "pixel_values",
                    expected: format!("(batch, {channels}, {size}, {size})"),
                    got: got.to_vec(),
                });
            }
        };
        let grid = size / patch;
        let patches = pixel_values
            .narrow(2, 0, grid * patch)?
            .narrow(3, 0, grid * patch)?
            .reshape(&[batch, channels, grid, patch, grid, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .reshape((batch * grid * grid, channels * patch * patch))?;
        let embedded = match &self.kernel {
            Kernel::Frozen(layer) => layer.forward(&patches, ctx)?,
            Kernel::Trained(weight, bias) => {
                let embedded = patches.matmul(&ctx.parameter(weight).flatten_from(1)?.t()?)?;
                match bias {
                    Some(bias) => embedded.broadcast_add(&ctx.parameter(bias))?,
                    None => embedded,
                }
            }
        };
        Ok(embedded.reshape((batch, grid * grid, self.width))?)
    }
}
