use candle_core::{DType, Tensor, Var};
use train_ops::{Convolution, Dropout, ForwardContext};

use crate::init::{convolution_weights, embedding_weights};
use crate::matching::LayerOptions;
use crate::{Bias, Error, LoraConfig, Result};

/// An embedding or a convolution without adapters.
#[derive(Clone, Debug)]
pub(crate) enum OtherBase {
    /// A weight of shape `(rows, width)`.
    Embedding(Tensor),
    /// A weight of shape `(out_channels, in_channels / groups, height, width)`.
    Conv2d(Tensor, Convolution),
}

impl OtherBase {
    pub(crate) fn weight(&self) -> &Tensor {
        match self {
            Self::Embedding(weight) | Self::Conv2d(weight, _) => weight,
        }
    }
}

/// LoRA of an embedding or a convolution, which is added to the layer's result (as PEFT's `lora.Embedding` and `lora.Conv2d`):
///
/// ```text
/// embedding      y + s A[:, ids]ᵀ Bᵀ           A (r, rows), B (width, r); no dropout
/// convolution    y + s B * (A * drop(x))       A (r, in_channels, height, width) as the layer, B (out_channels, r / groups, 1, 1)
/// ```
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) path: String,
    pub(crate) base: OtherBase,
    pub(crate) options: LayerOptions,
    a: Var,
    b: Var,
    dropout: Dropout,
}

impl Added {
    /// A new update of the layer at `path`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the configuration asks for a variant that only linear layers have, or PEFT cannot adapt the layer.
    pub(crate) fn new(
        path: &str,
        base: OtherBase,
        options: LayerOptions,
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        check(path, &base, options, config)?;
        let init = config.init_lora_weights;
        let (a, b) = match &base {
            OtherBase::Embedding(weight) => embedding_weights(init, seed, path, weight, options.rank)?,
            OtherBase::Conv2d(weight, convolution) => {
                let groups = convolution.groups;
                convolution_weights(init, seed, path, weight, groups, options.rank)?
            }
        };
        Ok(Self {
            path: path.to_owned(),
            base,
            options,
            a: Var::from_tensor(&a)?,
            b: Var::from_tensor(&b)?,
            dropout: Dropout::new(&format!("{path}.lora_dropout"), config.lora_dropout as f32)?,
        })
    }

    /// The addition to the layer's result for `xs`.
    pub(crate) fn forward(&self, xs: &Tensor, ctx: &ForwardContext) -> train_ops::Result<Tensor> {
        let (a, b) = (ctx.parameter(self.a.as_tensor()), ctx.parameter(self.b.as_tensor()));
        let sum = match &self.base {
            OtherBase::Embedding(_) => {
                let rows = a.index_select(&xs.flatten_all()?, 1)?.t()?;
                let shape = [xs.dims(), &[b.dim(0)?]].concat();
                rows.matmul(&b.t()?)?.reshape(shape)?
            }
            OtherBase::Conv2d(_, convolution) => {
                let dropped = self.dropout.forward(xs, ctx)?.to_dtype(a.dtype())?;
                let first = Convolution { dilation: 1, groups: 1, ..*convolution };
                let last = Convolution { padding: [0, 0], stride: 1, dilation: 1, ..*convolution };
                last.forward(&first.forward(&dropped, &a, None)?, &b, None)?
            }
        };
        Ok((sum * self.options.scale)?)
    }

    /// The change of the weight, f32.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a convolution of several groups, as in PEFT.
    pub(crate) fn delta_weight(&self) -> Result<Tensor> {
        let (a, b) = (self.a.as_detached_tensor(), self.b.as_detached_tensor());
        let product = match &self.base {
            OtherBase::Embedding(_) => b.matmul(&a)?.t()?.contiguous()?,
            OtherBase::Conv2d(_, convolution) if convolution.groups > 1 => {
                return Err(unsupported(
                    &self.path,
                    "the update of a convolution of several groups cannot be merged",
                ));
            }
            OtherBase::Conv2d(weight, _) => {
                let product = b.flatten_from(1)?.matmul(&a.flatten_from(1)?)?;
                product.reshape(weight.shape())?
            }
        };
        Ok((product * self.options.scale)?)
    }

    /// `W + ΔW` in the type of `W`.
    pub(crate) fn merged_weight(&self) -> Result<Tensor> {
        let weight = self.base.weight();
        Ok((weight.to_dtype(DType::F32)? + self.delta_weight()?)?.to_dtype(weight.dtype())?)
    }

    /// The trainable parameters, each with the end of its name in files.
    pub(crate) fn parameters(&self) -> [(&'static str, Var); 2] {
        let names = match &self.base {
            OtherBase::Embedding(_) => ["lora_embedding_A", "lora_embedding_B"],
            OtherBase::Conv2d(..) => ["lora_A.weight", "lora_B.weight"],
        };
        [(names[0], self.a.clone()), (names[1], self.b.clone())]
    }
}

fn unsupported(path: &str, problem: &str) -> Error {
    Error::Unsupported { path: path.to_owned(), problem: problem.to_owned() }
}

fn check(path: &str, base: &OtherBase, options: LayerOptions, config: &LoraConfig) -> Result<()> {
    let refuse = |problem: &str| Err(unsupported(path, problem));
    let only_linear = [
        ("use_dora", config.use_dora),
        ("lora_bias", config.lora_bias),
        ("init_lora_weights with PiSSA or OLoRA", config.init_lora_weights.changes_base()),
        ("bias = \"lora_only\"", config.bias == Bias::LoraOnly && matches!(base, OtherBase::Conv2d(..))),
    ];
    if let Some((option, _)) = only_linear.into_iter().find(|(_, is_set)| *is_set) {
        return refuse(&format!(
            "{option} is supported for linear layers only; exclude the layer, or leave the option out"
        ));
    }
    match base {
        OtherBase::Conv2d(_, convolution) if convolution.dilation != 1 => {
            refuse("PEFT's LoRA of a convolution has no dilation, and this one has; exclude the layer")
        }
        OtherBase::Conv2d(_, convolution) if !options.rank.is_multiple_of(convolution.groups) => {
            refuse(&format!(
                "the rank {} cannot be divided among the convolution's {} groups; set another one with rank_pattern",
                options.rank, convolution.groups
            ))
        }
        _ => Ok(()),
    }
}
