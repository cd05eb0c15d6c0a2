use candle_core::{CudaStorage, DType, Result, Shape, Tensor};
use cpu_kernels::DropoutMask;
use cuda_kernels::device::Kernels;
use cuda_kernels::{Mask, Pointer, ResidualNorm, ResidualNormGradient};

use super::dropout::DeviceMask;
use super::node::{node, node2};

/// The most features of a row.
const MOST_FEATURES: usize = 4096;

/// Layer norm with a frozen weight and bias.
pub(crate) fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    let Some(norm) = Norm::new(xs, [weight, bias], eps, None)? else { return Ok(None) };
    let (xs, shape) = (xs.contiguous()?, xs.shape().clone());
    let (ys, saved) = norm.forward(&xs, None)?;
    node("layer_norm", &xs, ys, &shape, move |dys| Ok(norm.backward(&saved, dys, false)?.0)).map(Some)
}

/// The norm of `residual + mask ∘ xs`, with a frozen weight and bias.
pub(crate) fn residual_norm(
    [residual, xs]: [&Tensor; 2],
    mask: Option<&DropoutMask>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<Option<Tensor>> {
    if residual.dtype() != xs.dtype() || residual.dims() != xs.dims() {
        return Ok(None);
    }
    let Some(norm) = Norm::new(xs, [weight, bias], eps, mask)? else { return Ok(None) };
    let (residual, xs) = (residual.contiguous()?, xs.contiguous()?);
    let (ys, saved) = norm.forward(&xs, Some(&residual))?;
    let backward = move |dys: &Tensor, [_, of_xs]: [bool; 2]| {
        let (dsums, dxs) = norm.backward(&saved, dys, of_xs)?;
        // Without dropout both are one gradient.
        let dxs = of_xs.then(|| dxs.unwrap_or_else(|| dsums.clone()));
        Ok([Some(dsums), dxs])
    };
    let shape = xs.shape().clone();
    node2("residual_norm", [&residual, &xs], ys, &shape, backward).map(Some)
}

struct Norm {
    kernels: Kernels,
    weight: Tensor,
    bias: Tensor,
    eps: f32,
    mask: Option<DeviceMask>,
}

/// The tensors that the backward pass reads.
struct Saved {
    /// The normalised tensor.
    sums: Tensor,
    /// Mean and `1 / std` of each row.
    statistics: Tensor,
}

impl Norm {
    fn new(
        xs: &Tensor,
        [weight, bias]: [&Tensor; 2],
        eps: f32,
        mask: Option<&DropoutMask>,
    ) -> Result<Option<Self>> {
        let trained = weight.track_op() || bias.track_op();
        if trained || weight.elem_count() > MOST_FEATURES {
            return Ok(None);
        }
        let Some(kernels) = Kernels::of(xs) else { return Ok(None) };
        let mask = mask.map(|mask| DeviceMask::new(&kernels, mask)).transpose()?;
        let parameter = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.contiguous();
        Ok(Some(Self { kernels, weight: parameter(weight)?, bias: parameter(bias)?, eps, mask }))
    }

    /// The mask, whose keys are at the address after the first `others`.
    fn mask_at(&self, addresses: &[Pointer], others: usize) -> Mask {
        match (&self.mask, addresses.get(others)) {
            (Some(mask), Some(keys)) => mask.at(*keys),
            _ => Mask::NONE,
        }
    }

    fn keys(&self) -> Option<&Tensor> {
        self.mask.as_ref().map(|mask| &mask.keys)
    }

    fn forward(&self, xs: &Tensor, residual: Option<&Tensor>) -> Result<(CudaStorage, Saved)> {
        let (count, features) = (xs.elem_count(), self.weight.elem_count());
        let rows = count / features;
        let mut ys = self.kernels.activations(count)?;
        let mut statistics = self.kernels.floats(2 * rows)?;
        let mut sums = residual.map(|_| self.kernels.activations(count)).transpose()?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let norm = ResidualNorm {
                xs: inputs[0],
                residual: residual.map_or(Pointer::NULL, |_| inputs[3]),
                weight: inputs[1],
                bias: inputs[2],
                sums: outputs.get(2).copied().unwrap_or(Pointer::NULL),
                ys: outputs[0],
                statistics: outputs[1],
                rows,
                features,
                eps: self.eps,
                mask: self.mask_at(inputs, 4),
            };
            Ok(vec![norm.launch(self.kernels.element())?])
        };
        let inputs: Vec<&Tensor> =
            [xs, &self.weight, &self.bias].into_iter().chain(residual).chain(self.keys()).collect();
        let mut outputs: Vec<&mut CudaStorage> =
            [&mut ys, &mut statistics].into_iter().chain(&mut sums).collect();
        // SAFETY: `ys` and `sums` have the elements of `xs`, and `statistics` two for each row. A mask comes with a residual.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&inputs, &mut outputs, launches) }?;
        let sums = sums.map_or_else(|| xs.detach(), |sums| Kernels::tensor(sums, xs.shape()));
        let statistics = Kernels::tensor(statistics, &Shape::from((rows, 2)));
        Ok((ys, Saved { sums, statistics }))
    }

    /// The gradient of the sums, which is the residual's, and that of `xs` where there is a mask and it is wanted.
    fn backward(&self, saved: &Saved, dys: &Tensor, of_xs: bool) -> Result<(Tensor, Option<Tensor>)> {
        let (count, features) = (saved.sums.elem_count(), self.weight.elem_count());
        let mut dsums = self.kernels.activations(count)?;
        let masked = of_xs && self.mask.is_some();
        let mut dxs = masked.then(|| self.kernels.activations(count)).transpose()?;
        let launches = |inputs: &[Pointer], outputs: &[Pointer]| {
            let gradient = ResidualNormGradient {
                sums: inputs[0],
                statistics: inputs[1],
                weight: inputs[2],
                dys: inputs[3],
                dsums_direct: Pointer::NULL,
                dsums: outputs[0],
                dxs: outputs.get(1).copied().unwrap_or(Pointer::NULL),
                rows: count / features,
                features,
                mask: self.mask_at(inputs, 4),
            };
            Ok(vec![gradient.launch(self.kernels.element())?])
        };
        let inputs: Vec<&Tensor> =
            [&saved.sums, &saved.statistics, &self.weight, dys].into_iter().chain(self.keys()).collect();
        let mut outputs: Vec<&mut CudaStorage> = [&mut dsums].into_iter().chain(&mut dxs).collect();
        // SAFETY: `dys`, `dsums` and `dxs` have the elements of the sums.
        #[allow(unsafe_code)]
        unsafe { self.kernels.run(&inputs, &mut outputs, launches) }?;
        let tensor = |storage| Kernels::tensor(storage, saved.sums.shape());
        Ok((tensor(dsums), dxs.map(tensor)))
    }
}
