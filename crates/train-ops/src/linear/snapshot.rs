use std::sync::Arc;

use candle_core::Tensor;

use super::adapted::PackedLora;
use super::{FrozenLinear, Packed, check_input, with_last_dim};
use crate::kernels::{Operand, Rows, Term};
use crate::{Error, LinearLayer, Pass, Result, host};

/// A frozen layer and an adapter as it was at one time; see [`AdaptedLinear::snapshot`](crate::AdaptedLinear::snapshot).
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) base: FrozenLinear,
    pub(super) packed: Arc<Packed>,
    pub(super) lora: PackedLora,
}

impl LinearLayer for Snapshot {
    fn forward(&self, xs: &Tensor, pass: &Pass) -> Result<Tensor> {
        check_input(self.base.path(), xs, self.base.in_features())?;
        if pass.is_training() || !host::is_host_f32(xs) {
            return Err(Error::Snapshot { path: self.base.path().to_owned() });
        }
        let shape = with_last_dim(xs.shape(), self.base.out_features());
        let xs = xs.contiguous()?;
        let view = xs.storage_and_layout();
        let rows = Rows::new(host::values(&view)?, self.base.in_features());
        let mut ys = vec![0.0; shape.elem_count()];
        let operand = Operand::new(rows, &self.packed.forward);
        let through_base = Term::new(&operand, &self.packed.forward);
        self.lora.add(&self.base, through_base, rows, None, &mut ys)?;
        Ok(Tensor::from_vec(ys, shape, xs.device())?)
    }

    fn parameters(&self) -> Vec<Tensor> {
        Vec::new()
    }

    fn in_features(&self) -> usize {
        self.base.in_features()
    }

    fn out_features(&self) -> usize {
        self.base.out_features()
    }
}
