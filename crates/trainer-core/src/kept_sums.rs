//! Sums over the passes of a step, in memory that is kept from step to step.

use candle_core::{Result, Tensor};

use crate::{Gradients, cuda};

/// The sums of losses and gradients over the passes of a step. A task that computes gradients itself may write those of the next pass
/// to the same memory, so that each is copied or added before.
#[derive(Default)]
pub(crate) struct KeptSums {
    /// Gradients in memory of this struct.
    gradients: Gradients,
    /// Whether `gradients` is the sum of the current step.
    is_sum: bool,
    losses: Option<Tensor>,
}

impl KeptSums {
    /// Begins a step.
    pub(crate) fn begin(&mut self) {
        self.is_sum = false;
    }

    /// Adds gradients to the only sum of a step, and keeps none of their tensors.
    pub(crate) fn add(&mut self, sum: &mut Gradients, computed: &Gradients) -> crate::Result<()> {
        let (to, from) = (tensors(&self.gradients), tensors(computed));
        let fits = self.gradients.iter().map(|(name, _)| name).eq(computed.iter().map(|(name, _)| name));
        if sum.is_empty() {
            if !(fits && cuda::copy_in_place(&to, &from)?.is_some()) {
                self.gradients = computed.copied()?;
            }
            *sum = self.gradients.clone();
            self.is_sum = true;
            return Ok(());
        }
        if self.is_sum && fits && cuda::add_in_place(&to, &from)?.is_some() {
            return Ok(());
        }
        self.is_sum = false;
        sum.add(computed)
    }

    /// The loss of pass `pass` of `passes`, in other memory.
    pub(crate) fn loss(&mut self, loss: &Tensor, pass: usize, passes: usize) -> Result<Tensor> {
        let fits = |losses: &&Tensor| {
            losses.elem_count() >= passes
                && losses.dtype() == loss.dtype()
                && losses.device().same_device(loss.device())
        };
        let losses = match self.losses.as_ref().filter(fits) {
            Some(losses) => losses,
            None => self.losses.insert(Tensor::zeros(passes, loss.dtype(), loss.device())?),
        };
        losses.slice_set(&loss.reshape(1)?, 0, pass)?;
        losses.narrow(0, pass, 1)?.reshape(())
    }
}

fn tensors(gradients: &Gradients) -> Vec<&Tensor> {
    gradients.iter().map(|(_, gradient)| gradient).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn gradients(values: [f32; 2]) -> Gradients {
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
        Gradients::from_iter([("a".to_owned(), tensor(values[0])), ("b".to_owned(), tensor(values[1]))])
    }

    fn values(gradients: &Gradients) -> Vec<f32> {
        gradients.iter().map(|(_, gradient)| gradient.to_vec1::<f32>().unwrap()[0]).collect()
    }

    #[test]
    fn sums_and_losses_do_not_change_with_the_memory_that_they_were_computed_in() {
        let mut kept = KeptSums::default();
        for step in 0..2 {
            kept.begin();
            let (reused, mut sum) = (gradients([1.0, 2.0]), Gradients::new());
            let loss = Tensor::new(5f32, &Device::Cpu).unwrap();
            kept.add(&mut sum, &reused).unwrap();
            let first = kept.loss(&loss, 0, 2).unwrap();
            for (_, gradient) in reused.iter() {
                gradient.slice_set(&Tensor::new(&[10f32], &Device::Cpu).unwrap(), 0, 0).unwrap();
            }
            loss.reshape(1).unwrap().slice_set(&Tensor::new(&[7f32], &Device::Cpu).unwrap(), 0, 0).unwrap();
            kept.add(&mut sum, &reused).unwrap();
            let second = kept.loss(&loss, 1, 2).unwrap();
            assert_eq!(values(&sum), [11.0, 12.0], "step {step}");
            let losses = [first, second].map(|loss| loss.to_scalar::<f32>().unwrap());
            assert_eq!(losses, [5.0, 7.0], "step {step}");
        }
    }
}
