use candle_core::{CudaStorage, Result, Shape, Tensor};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::Kernels;
use cuda_kernels::{
    Attention, AttentionGradients, AttentionSizes, AttentionStrides, Mask, Pointer, VisibleKeys,
};

use super::activations::MOST_HEAD_DIM;
use super::dropout::DeviceMask;
use super::node::node3;
use crate::attention::sizes::Sizes;
use crate::{AttentionMask, KeyLengths};

/// Attention that never stores its scores.
pub(crate) fn attention(
    [query, key, value]: [&Tensor; 3],
    sizes: Sizes,
    (mask, lengths): (AttentionMask, Option<&KeyLengths>),
    dropout: Option<&DropoutMask>,
) -> Result<Option<Tensor>> {
    let same_type = key.dtype() == query.dtype() && value.dtype() == query.dtype();
    let Some(kernels) = Kernels::of(query).filter(|_| same_type && sizes.head_dim <= MOST_HEAD_DIM) else {
        return Ok(None);
    };
    let dropout = dropout.map(|mask| DeviceMask::new(&kernels, mask)).transpose()?;
    let lengths = lengths.map(|lengths| lengths.on(query.device())).transpose();
    let lengths = lengths.map_err(candle_core::Error::wrap)?;
    let operation = Operation { kernels, sizes, mask, lengths, dropout };
    let arguments = [query.contiguous()?, key.contiguous()?, value.contiguous()?];
    let inputs = arguments.each_ref().map(Tensor::detach);
    let (context, log_sums) = operation.forward(&inputs)?;
    let backward = move |context: &Tensor, grad: &Tensor, needed: [bool; 3]| {
        let [dquery, dkey, dvalue] = operation.backward(&inputs, context, &log_sums, grad)?;
        let [of_query, of_key, of_value] = needed;
        Ok([of_query.then_some(dquery), of_key.then_some(dkey), of_value.then_some(dvalue)])
    };
    node3("attention", arguments.each_ref(), context, query.shape(), backward).map(Some)
}

struct Operation {
    kernels: Kernels,
    sizes: Sizes,
    mask: AttentionMask,
    /// Real keys of each sequence.
    lengths: Option<Tensor>,
    dropout: Option<DeviceMask>,
}

impl Operation {
    /// The kernels' description. `inputs` are queries, keys, values, and as far as there are any, the lengths and the keys of the
    /// mask.
    fn describe(&self, inputs: &[Pointer], context: Pointer, log_sums: Pointer) -> Attention {
        let Sizes { batch, queries, keys, heads, head_dim } = self.sizes;
        let sizes = AttentionSizes { batch, queries, keys, heads, head_dim };
        let visible = match self.mask {
            AttentionMask::Full => VisibleKeys::All,
            AttentionMask::CausalAfterPrefix { prefix, first_query } => {
                VisibleKeys::CausalAfterPrefix { prefix, first_query }
            }
        };
        let mut rest = inputs[3..].iter();
        let key_lengths = self.lengths.as_ref().and_then(|_| rest.next()).copied().unwrap_or(Pointer::NULL);
        let (mask, samples) = match (&self.dropout, rest.next()) {
            (Some(mask), Some(keys)) => (mask.at(*keys), mask.keys.elem_count()),
            _ => (Mask::NONE, batch),
        };
        Attention {
            query: inputs[0],
            key: inputs[1],
            value: inputs[2],
            context,
            log_sums,
            sizes,
            strides: AttentionStrides::dense(sizes),
            visible,
            key_lengths,
            batch_per_sample: (batch / samples.max(1)).max(1),
            mask,
        }
    }

    fn rows(&self) -> usize {
        self.sizes.batch * self.sizes.heads * self.sizes.queries
    }

    /// The tensors that the kernels read in both passes.
    fn inputs<'a>(&'a self, inputs: &'a [Tensor; 3]) -> Vec<&'a Tensor> {
        inputs.iter().chain(&self.lengths).chain(self.dropout.as_ref().map(|mask| &mask.keys)).collect()
    }

    /// The context, and the logarithms of the rows' sums for the backward pass.
    fn forward(&self, inputs: &[Tensor; 3]) -> Result<(CudaStorage, Tensor)> {
        let mut context = self.kernels.activations(inputs[0].elem_count())?;
        let mut log_sums = self.kernels.floats(self.rows())?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            Ok(vec![self.describe(inputs, outputs[0], outputs[1]).forward(self.kernels.element())?])
        };
        // SAFETY: the caller of `attention` checked the shapes.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&self.inputs(inputs), &mut [&mut context, &mut log_sums], launches) }?;
        Ok((context, Kernels::tensor(log_sums, &Shape::from(self.rows()))))
    }

    fn backward(
        &self,
        inputs: &[Tensor; 3],
        context: &Tensor,
        log_sums: &Tensor,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let activations = |like: &Tensor| self.kernels.activations(like.elem_count());
        let [mut dquery, mut dkey, mut dvalue] =
            [activations(&inputs[0])?, activations(&inputs[1])?, activations(&inputs[2])?];
        let mut means = self.kernels.floats(self.rows())?;
        let mut read = vec![grad, context, log_sums];
        read.extend(self.inputs(inputs));
        let launches = |read: &[Pointer], outputs: &[Pointer]| {
            let gradients = AttentionGradients {
                dcontext: read[0],
                means: outputs[3],
                dquery: outputs[0],
                dkey: outputs[1],
                dvalue: outputs[2],
            };
            let attention = self.describe(&read[3..], read[1], read[2]);
            Ok(attention.backward(self.kernels.element(), &gradients)?.to_vec())
        };
        let mut outputs = [&mut dquery, &mut dkey, &mut dvalue, &mut means];
        // SAFETY: each gradient has the elements of its input.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&read, &mut outputs, launches) }?;
        let [query, key, value] = inputs.each_ref().map(Tensor::shape);
        Ok([Kernels::tensor(dquery, query), Kernels::tensor(dkey, key), Kernels::tensor(dvalue, value)])
    }
}
