//! Data-parallel training: several processes or threads that train one model together.

mod exchange;
mod layout;
mod message;
#[cfg(feature = "nccl")]
mod nccl;
mod started;
mod sum;
mod sum_on_device;
mod threads;

use std::ops::Range;

use candle_core::{Device, Tensor};
pub(crate) use exchange::{gather_json, share_json, share_numbers};
#[cfg(feature = "nccl")]
pub use nccl::NcclWorkers;
use started::Deferred;
pub use started::Exchange;
pub(crate) use sum::HostSum;
pub(crate) use sum_on_device::sum_on_device;
pub use threads::ThreadWorkers;

use crate::BoxError;

/// The connection between processes or threads that train one model together, seen from one of them.
///
/// Every worker runs the same program on the same data. The engine divides the forward and backward passes of each step
/// among the workers, and adds the gradients in the order of the passes, whichever worker computed them. A run therefore has
/// the same bits with any number of workers, on processors with the same instruction set, and may be resumed with another
/// number. Worker 0 writes checkpoints; every worker must be able to read them.
///
/// An implementation only transports: it must not add or round anything. All workers make the same calls in the same order.
/// Every method blocks until all workers have called it, except for [`leave`](Self::leave),
/// [`start_exchange`](Self::start_exchange) and [`exchange_on_device`](Self::exchange_on_device), which may return earlier.
///
/// [`ThreadWorkers`] are threads of one process, and the crate `trainer-mpi` has processes of an MPI job. With the feature
/// `nccl`, `NcclWorkers` sends the gradients of either between NVIDIA GPUs.
pub trait Workers: Send + Sync {
    /// The number of this worker, from 0.
    fn rank(&self) -> usize;

    /// The number of workers.
    fn count(&self) -> usize;

    /// Sends `message`, of any length, to all workers. Returns the messages of all, by rank.
    ///
    /// # Errors
    /// If a worker is lost. The run then ends, and can be resumed.
    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError>;

    /// Sends consecutive segments of `numbers` to the workers, `to[r]` numbers to worker `r`. Returns the segments that they
    /// sent to this one, joined by rank; that of worker `r` has `from[r]` numbers.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError>;

    /// Starts an [`exchange`](Self::exchange), if possible without waiting for the other workers. Sends `numbers[to[r]]` to worker
    /// `r`; the ranges may overlap. The numbers that the workers have sent to this one are returned by [`Exchange::wait`].
    ///
    /// Default: the exchange begins when it is waited for.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn start_exchange<'a>(
        &'a self,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Box<dyn Exchange + 'a>, BoxError> {
        Ok(Box::new(Deferred { workers: self, numbers, to: to.to_vec(), from: from.to_vec() }))
    }

    /// As [`gather`](Self::gather), for numbers: returns those of all workers, joined by rank. Worker `r` sends `lengths[r]`.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError>;

    /// As [`exchange`](Self::exchange), for lists of f32 on one device: sends `to[r]` to worker `r`, and returns what each worker has
    /// sent to this one, `from[r]` numbers, on `device`. A list without numbers is `None`.
    ///
    /// Default: through the host's memory, by `exchange`. A connection between accelerators needs no copies there. It may return
    /// before the numbers are sent, if whatever the device computes next waits for them.
    ///
    /// # Errors
    /// As [`gather`](Self::gather); if the numbers cannot be copied.
    fn exchange_on_device(
        &self,
        to: &[Option<Tensor>],
        from: &[usize],
        device: &Device,
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let on_host = |list: &Option<Tensor>| match list {
            Some(list) => list.to_vec1::<f32>(),
            None => Ok(Vec::new()),
        };
        let sent = to.iter().map(on_host).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = sent.iter().map(Vec::len).collect();
        let received = self.exchange(&sent.concat(), &lengths, from)?;
        let mut rest = &received[..];
        let mut lists = Vec::new();
        for length in from {
            let (list, after) = rest.split_at(*length);
            rest = after;
            let list = (!list.is_empty()).then(|| Tensor::new(list, device)).transpose()?;
            lists.push(list);
        }
        Ok(lists)
    }

    /// Says that this worker ends with an error, so that the others' calls return an error instead of waiting for it.
    /// Default: nothing, for workers whose end is noticed in another way.
    fn leave(&self, _reason: &str) {}

    /// This worker's part of `total` items in a fixed order: consecutive, and as even as possible.
    fn share(&self, total: usize) -> Range<usize> {
        share(total, self.rank(), self.count())
    }
}

/// Training in a single process. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl Workers for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        Ok(vec![message.to_vec()])
    }

    fn exchange(&self, numbers: &[f32], _to: &[usize], _from: &[usize]) -> Result<Vec<f32>, BoxError> {
        Ok(numbers.to_vec())
    }

    fn gather_numbers(&self, numbers: &[f32], _lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        Ok(numbers.to_vec())
    }
}

/// The part of `total` items that worker `rank` of `count` has.
pub(crate) fn share(total: usize, rank: usize, count: usize) -> Range<usize> {
    rank * total / count..(rank + 1) * total / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_complete() {
        let shares = |total, count| (0..count).map(|rank| share(total, rank, count)).collect::<Vec<_>>();
        assert_eq!(shares(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(shares(1, 3), [0..0, 0..0, 0..1]);
        assert_eq!(shares(0, 2), [0..0, 0..0]);
    }
}
