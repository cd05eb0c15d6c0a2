use candle_core::{CudaStorage, DType, Result, Shape, Tensor};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::Kernels;
use cuda_kernels::{Lora, LoraGradients, Mask, Pointer};

use super::dropout::DeviceMask;
use super::node::node3;
use super::product::product;
use crate::backward::deliver;
use crate::{FrozenLinear, LinearLayer};

/// The highest rank.
const MOST_RANKS: usize = 64;

/// A frozen layer with an adapter `A`, `B` of scale `scale`: the product with the frozen weight by cuBLAS; bias and products of the
/// adapter, with dropout on its input, in a launch.
pub(crate) fn lora_linear(
    xs: &Tensor,
    base: &FrozenLinear,
    [a, b]: [&Tensor; 2],
    scale: f64,
    mask: Option<&DropoutMask>,
) -> Result<Option<Tensor>> {
    let rank = a.dim(0)?;
    let Some(kernels) = Kernels::of(xs).filter(|_| rank <= MOST_RANKS) else { return Ok(None) };
    if [a, b].iter().any(|tensor| tensor.dtype() != DType::F32) {
        return Ok(None);
    }
    let mask = mask.map(|mask| DeviceMask::new(&kernels, mask)).transpose()?;
    let (xs, a, b) = (xs.contiguous()?, a.contiguous()?, b.contiguous()?);
    let rows = xs.elem_count() / base.in_features();
    let flat = xs.detach().reshape((rows, base.in_features()))?;
    let adapter = [a.detach(), b.detach()];
    let operation = Operation { kernels, base: base.clone(), adapter, scale: scale as f32, mask, rows };
    let (ys, hidden) = operation.forward(&flat)?;
    let mut shape = xs.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = base.out_features();
    }
    let (in_shape, parameters) = (xs.shape().clone(), [a.clone(), b.clone()]);
    let backward = move |_ys: &Tensor, dys: &Tensor, needed: [bool; 3]| {
        let dys = dys.reshape((rows, operation.base.out_features()))?;
        let [dxs, da, db] = operation.backward(&flat, &hidden, &dys, needed)?;
        let dxs = dxs.map(|dxs| dxs.reshape(&in_shape)).transpose()?;
        let [a, b] = &parameters;
        Ok([dxs, da.and_then(|da| deliver(a, da)), db.and_then(|db| deliver(b, db))])
    };
    node3("lora_linear", [&xs, &a, &b], ys, shape, backward).map(Some)
}

struct Operation {
    kernels: Kernels,
    base: FrozenLinear,
    /// `A` and `B`.
    adapter: [Tensor; 2],
    scale: f32,
    mask: Option<DeviceMask>,
    rows: usize,
}

impl Operation {
    /// The kernels' description, from the addresses of `A`, `B`, and the bias and the keys of the mask if there are any.
    fn describe(&self, addresses: &[Pointer]) -> Lora {
        let mut rest = addresses[2..].iter().copied();
        let bias = self.base.bias().and_then(|_| rest.next()).unwrap_or(Pointer::NULL);
        let mask = match (&self.mask, rest.next()) {
            (Some(mask), Some(keys)) => mask.at(keys),
            _ => Mask::NONE,
        };
        Lora {
            a: addresses[0],
            b: addresses[1],
            bias,
            rows: self.rows,
            in_features: self.base.in_features(),
            out_features: self.base.out_features(),
            rank: self.rank(),
            scale: self.scale,
            mask,
        }
    }

    fn rank(&self) -> usize {
        self.adapter[0].dims()[0]
    }

    /// The tensors of [`describe`](Self::describe), after `others`.
    fn inputs<'a>(&'a self, others: &[&'a Tensor]) -> Vec<&'a Tensor> {
        let mask = self.mask.as_ref().map(|mask| &mask.keys);
        others.iter().copied().chain(&self.adapter).chain(self.base.bias()).chain(mask).collect()
    }

    /// The result, and `h`.
    fn forward(&self, xs: &Tensor) -> Result<(CudaStorage, Tensor)> {
        let mut ys = product(xs, &self.base)?;
        let mut hidden = self.kernels.floats(self.rows * self.rank())?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let lora = self.describe(&inputs[1..]);
            Ok(vec![lora.forward(self.kernels.element(), inputs[0], outputs[1], outputs[0])?])
        };
        // SAFETY: all have as many rows; the bias has an element for each column of `ys`.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&self.inputs(&[xs]), &mut [&mut ys, &mut hidden], launches) }?;
        let hidden = Kernels::tensor(hidden, &Shape::from((self.rows, self.rank())));
        Ok((ys, hidden))
    }

    /// `dxs`, `dA` and `dB`, those that are needed.
    fn backward(
        &self,
        xs: &Tensor,
        hidden: &Tensor,
        dys: &Tensor,
        [of_xs, of_a, of_b]: [bool; 3],
    ) -> Result<[Option<Tensor>; 3]> {
        let dxs = of_xs.then(|| self.base.backward_tensor(dys)?.contiguous()).transpose()?;
        let (element, rank) = (self.kernels.element(), self.rank());
        let mut dhidden = self.kernels.floats(self.rows * rank)?;
        let mut da = self.kernels.floats(rank * self.base.in_features())?;
        let mut db = self.kernels.floats(self.base.out_features() * rank)?;
        let mut partial = self.kernels.floats(self.describe(&[Pointer::NULL; 2]).partial_len())?;
        let mut read = self.inputs(&[xs, hidden, dys]);
        read.extend(dxs.as_ref());
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let (described, dxs) = inputs[3..].split_at(inputs.len() - 3 - usize::from(of_xs));
            let lora = self.describe(described);
            let dxs = dxs.first().copied().unwrap_or(Pointer::NULL);
            let gradients = LoraGradients {
                xs: inputs[0],
                hidden: inputs[1],
                dys: inputs[2],
                dhidden: outputs[0],
                partial: outputs[3],
                da: outputs[1],
                db: outputs[2],
            };
            let mut launches = vec![lora.backward(element, inputs[2], outputs[0], dxs)?];
            if of_a || of_b {
                launches.extend(lora.gradients(element, &gradients)?);
            }
            Ok(launches)
        };
        // SAFETY: `dxs` was just made, so that nothing else reads it; the rest is as large as the kernels are documented to need.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&read, &mut [&mut dhidden, &mut da, &mut db, &mut partial], launches) }?;
        let [a, b] = self.adapter.each_ref().map(Tensor::shape);
        let gradient = |wanted: bool, storage, shape| wanted.then(|| Kernels::tensor(storage, shape));
        Ok([dxs, gradient(of_a, da, a), gradient(of_b, db, b)])
    }
}
