//! The source of a model's weights, through which a layer builder decides what is trained.

mod candle_names;
mod to_candle;

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use candle_nn::Init;
pub use candle_nn::var_builder::{
    Backend, Rename, Renamer, SafeTensorWithRouting, ShardedSafeTensors, ShardedVarBuilder, SimpleBackend,
    VarBuilderArgs,
};
use train_ops::{Adaptation, Convolution, LayerBuilder};

use crate::dropout::Numbering;
use crate::layers::{Layers, Lent};

type Names<'a> = Arc<dyn Fn(&str) -> String + Send + Sync + 'a>;

/// candle-nn's `VarBuilder` with a method [`build`](Self::build), through which a [`LayerBuilder`] decides for
/// each layer whether it is frozen, adapted or trained.
///
/// Without `build` a model gets its tensors unchanged: constants from a file, variables from a `VarMap`. Then
/// no context has to be [entered](crate::enter), and models train as with candle-nn.
#[derive(Clone)]
pub struct VarBuilder<'a> {
    weights: candle_nn::VarBuilder<'a>,
    layers: Option<Layers>,
    /// From the name that the model asks for to the one in the checkpoint.
    renamed: Option<Names<'a>>,
    /// From the path in the checkpoint to the one that the builder gets.
    layer_paths: Option<Names<'a>>,
}

impl<'a> VarBuilder<'a> {
    /// Builds `model` with the layers of `builder`, and returns both: a LoRA builder's `finish` then gives the adapter, a
    /// [`TrainableBuilder`](crate::TrainableBuilder)'s the variables.
    ///
    /// The builder makes the linear layers of [`linear`](crate::linear()) and its variants, by their paths. Any
    /// other tensor is a parameter; so is the weight of a layer made by `Linear::new`, which therefore gets no
    /// adapter. A layer or parameter that a model requests twice is made once and shared.
    ///
    /// ```
    /// # fn main() -> candle_core::Result<()> {
    /// use candle_core::{DType, Device, Tensor};
    /// use trainable_nn::{Module, ForwardContext, TrainableBuilder, VarBuilder, enter, linear};
    ///
    /// let weights = VarBuilder::zeros(DType::F32, &Device::Cpu);
    /// let (layer, trained) = weights.build(TrainableBuilder::new(), |vb| linear(3, 2, vb.pp("output")))?;
    /// let variables = trained.finish();
    ///
    /// let _pass = enter(ForwardContext::training([0]));
    /// let gradients = layer.forward(&Tensor::ones((1, 3), DType::F32, &Device::Cpu)?)?.sum_all()?.backward()?;
    /// assert!(gradients.get(&variables["output.weight"]).is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of `model`. An error of `builder` reaches `model` as one of candle's.
    pub fn build<B, M, E>(
        self,
        builder: B,
        model: impl FnOnce(Self) -> std::result::Result<M, E>,
    ) -> std::result::Result<(M, B), E>
    where
        B: LayerBuilder + Send + 'static,
        E: From<candle_core::Error>,
    {
        let lent = Lent::new(builder);
        let numbering = Numbering::start();
        let model = model(Self { layers: Some(Layers::new(lent.share())), ..self })?;
        drop(numbering);
        let taken =
            lent.take().ok_or_else(|| candle_core::Error::Msg("the builder was taken twice".into()))?;
        Ok((model, taken))
    }

    /// Changes the paths that the [`LayerBuilder`] gets: `names` maps the path of a layer or a parameter in the
    /// checkpoint to the new one. An adapter of PEFT names layers as transformers does, whose models may lack a
    /// prefix that the checkpoint has:
    ///
    /// ```
    /// # use candle_core::{DType, Device};
    /// # let vb = trainable_nn::VarBuilder::zeros(DType::F32, &Device::Cpu);
    /// let vb = vb.layer_paths(|path| path.trim_start_matches("bert.").to_owned());
    /// ```
    pub fn layer_paths(self, names: impl Fn(&str) -> String + Send + Sync + 'a) -> Self {
        Self { layer_paths: Some(Arc::new(names)), ..self }
    }

    fn with(&self, weights: candle_nn::VarBuilder<'a>) -> Self {
        Self { weights, ..self.clone() }
    }

    /// `name` with the prefix.
    fn full(&self, name: &str) -> String {
        let prefix = self.prefix();
        if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
    }

    /// The name in the checkpoint of the tensor `name`.
    fn in_checkpoint(&self, name: &str) -> String {
        let full = self.full(name);
        self.renamed.as_ref().map_or(full.clone(), |renamed| renamed(&full))
    }

    /// The builder's name for `path`, a path in the checkpoint.
    fn layer_path(&self, path: &str) -> String {
        self.layer_paths.as_ref().map_or(path.to_owned(), |paths| paths(path))
    }

    /// Passes a tensor to the builder, if there is one, or returns the parameter that it made before.
    fn parameter(&self, name: &str, dtype: DType, read: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let Some(layers) = &self.layers else { return read() };
        let name = self.in_checkpoint(name);
        layers.parameter(&name, &self.layer_path(&name), read)?.to_dtype(dtype)
    }

    /// A linear layer of these shapes, made by the builder.
    pub(crate) fn linear(
        &self,
        in_features: usize,
        out_features: usize,
        bias: Option<Init>,
    ) -> Result<crate::Linear> {
        let read = || {
            let shape = (out_features, in_features);
            let weight =
                self.weights.get_with_hints(shape, "weight", candle_nn::init::DEFAULT_KAIMING_NORMAL)?;
            let bias =
                bias.map(|init| self.weights.get_with_hints(out_features, "bias", init)).transpose()?;
            Ok((weight, bias))
        };
        let Some(layers) = &self.layers else {
            let (weight, bias) = read()?;
            return Ok(crate::Linear::new(weight, bias));
        };
        let weight_name = self.in_checkpoint("weight");
        // The weight of an embedding that is also the output layer: one parameter, and no separate layer.
        if let Some(weight) = layers.made(&weight_name) {
            let bias = bias.map(|init| self.get_with_hints(out_features, "bias", init)).transpose()?;
            return Ok(crate::Linear::new(weight, bias));
        }
        let path = module_of(&weight_name);
        crate::Linear::built(layers.linear(path, &self.layer_path(path), read)?)
    }

    /// The builder's adaptation of the embedding whose `weight` is here.
    pub(crate) fn adapt_embedding(&self, weight: &Tensor) -> Result<Option<Arc<dyn Adaptation>>> {
        self.adaptation(|builder, path| builder.adapt_embedding(path, weight))
    }

    /// The builder's adaptation of the convolution whose `weight` is here.
    pub(crate) fn adapt_conv2d(
        &self,
        weight: &Tensor,
        convolution: Convolution,
    ) -> Result<Option<Arc<dyn Adaptation>>> {
        self.adaptation(|builder, path| builder.adapt_conv2d(path, weight, convolution))
    }

    fn adaptation(
        &self,
        ask: impl FnOnce(&mut dyn LayerBuilder, &str) -> train_ops::Result<Option<Arc<dyn Adaptation>>>,
    ) -> Result<Option<Arc<dyn Adaptation>>> {
        let Some(layers) = &self.layers else { return Ok(None) };
        let weight_name = self.in_checkpoint("weight");
        let path = module_of(&weight_name);
        layers.adaptation(path, |builder| ask(builder, &self.layer_path(path)))
    }

    /// Whether a [`LayerBuilder`] makes the layers.
    pub(crate) fn is_built(&self) -> bool {
        self.layers.is_some()
    }
}

impl<'a> From<candle_nn::VarBuilder<'a>> for VarBuilder<'a> {
    fn from(weights: candle_nn::VarBuilder<'a>) -> Self {
        Self { weights, layers: None, renamed: None, layer_paths: None }
    }
}

impl fmt::Debug for VarBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("VarBuilder");
        debug.field("prefix", &self.prefix()).field("dtype", &self.dtype());
        debug.field("built", &self.is_built()).finish_non_exhaustive()
    }
}

/// The path of the layer whose weight has this name.
fn module_of(weight_name: &str) -> &str {
    weight_name.strip_suffix("weight").unwrap_or(weight_name).trim_end_matches('.')
}
