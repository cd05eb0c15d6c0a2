//! Gradients between NVIDIA GPUs, by NCCL.

use std::ffi::c_char;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, group_end, group_start, result::NcclError};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Device, Storage, Tensor};

use super::{Exchange, Workers, exchange::lost};
use crate::{BoxError, Error, Result};

/// Workers whose gradients go from GPU to GPU, by NVIDIA's NCCL; everything else, which is little, goes through other workers. Each
/// worker has a GPU of its own.
///
/// ```no_run
/// use candle_core::Device;
/// use trainer_core::{NcclWorkers, ThreadWorkers};
///
/// # fn train(_: usize, _: NcclWorkers) {}
/// for (rank, worker) in ThreadWorkers::new(4).into_iter().enumerate() {
///     std::thread::spawn(move || -> Result<(), trainer_core::BoxError> {
///         let device = Device::new_cuda(rank)?;
///         Ok(train(rank, NcclWorkers::new(std::sync::Arc::new(worker), &device)?))
///     });
/// }
/// ```
pub struct NcclWorkers {
    others: Arc<dyn Workers>,
    device: CudaDevice,
    communicator: Mutex<Communicator>,
}

struct Communicator(Comm);

// SAFETY: NCCL allows any thread to use a communicator, one at a time. Its mutex ensures this.
#[allow(unsafe_code)]
unsafe impl Send for Communicator {}

impl NcclWorkers {
    /// Connects the GPUs of all workers. Blocks until all have called it; `device` is that of this worker.
    ///
    /// # Errors
    /// [`Error::Nccl`] if a device is not an NVIDIA GPU, two workers have the same one, or NCCL fails; [`Error::Workers`] if a worker is
    /// lost.
    pub fn new(others: Arc<dyn Workers>, device: &Device) -> Result<Self> {
        let cuda = device.as_cuda_device().map_err(|error| failed("a GPU", error.to_string()));
        let id = match (&cuda, others.rank()) {
            (Ok(_), 0) => Id::new().map(Some).map_err(|error| nccl("ncclGetUniqueId", error)),
            _ => Ok(None),
        };
        // A worker that has an error sends nothing, so that the others do not wait for it in NCCL.
        let message = match (&cuda, &id) {
            (Ok(_), Ok(Some(id))) => id.internal().iter().map(|byte| *byte as u8).collect(),
            (Ok(_), Ok(None)) => vec![1],
            _ => Vec::new(),
        };
        let messages = others.gather(&message).map_err(lost)?;
        let (device, _) = (cuda?.clone(), id?);
        if let Some(rank) = messages.iter().position(Vec::is_empty) {
            return Err(failed("all workers", format!("worker {rank} cannot use NCCL")));
        }
        let bytes: Vec<c_char> = messages[0].iter().map(|byte| *byte as c_char).collect();
        let id = bytes
            .try_into()
            .map_err(|_| failed("an id", "that of worker 0 has another length".to_owned()))?;
        // NCCL connects the GPU that is current in the thread.
        let stream = device.cuda_stream();
        let bound = stream.context().bind_to_thread();
        bound.map_err(|error| failed("cuCtxSetCurrent", error.to_string()))?;
        let communicator = Comm::from_rank(stream, others.rank(), others.count(), Id::uninit(id))
            .map_err(|error| nccl("ncclCommInitRank", error))?;
        Ok(Self { others, device, communicator: Mutex::new(Communicator(communicator)) })
    }

    /// A list of numbers on this worker's GPU as NCCL takes it.
    fn with_slice<R>(
        &self,
        list: &Tensor,
        with: impl FnOnce(&CudaSlice<f32>, usize, usize) -> R,
    ) -> Result<R> {
        let list = list.to_device(&Device::Cuda(self.device.clone()))?.contiguous()?;
        let (storage, layout) = list.storage_and_layout();
        match (&*storage, layout.contiguous_offsets()) {
            (Storage::Cuda(storage), Some((start, end))) => Ok(with(storage.as_cuda_slice()?, start, end)),
            _ => Err(failed("a list of numbers on the GPU", format!("{list:?} is none"))),
        }
    }
}

impl Workers for NcclWorkers {
    fn rank(&self) -> usize {
        self.others.rank()
    }

    fn count(&self) -> usize {
        self.others.count()
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        self.others.gather(message)
    }

    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.others.exchange(numbers, to, from)
    }

    fn start_exchange<'a>(
        &'a self,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Box<dyn Exchange + 'a>, BoxError> {
        self.others.start_exchange(numbers, to, from)
    }

    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.others.gather_numbers(numbers, lengths)
    }

    fn exchange_on_device(
        &self,
        to: &[Option<Tensor>],
        from: &[usize],
        device: &Device,
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Communicator(communicator) = &*self.communicator.lock().unwrap_or_else(PoisonError::into_inner);
        self.device.cuda_stream().context().bind_to_thread()?;
        let room =
            |length: &usize| (*length > 0).then(|| self.device.alloc_zeros::<f32>(*length)).transpose();
        let mut received = from.iter().map(room).collect::<candle_core::Result<Vec<_>>>()?;
        // All at once: one after another, each worker would wait for another one to receive.
        group_start().map_err(|error| nccl("ncclGroupStart", error))?;
        let queued = to.iter().zip(&mut received).enumerate().try_for_each(|(peer, (list, room))| {
            let peer = peer as i32;
            if let Some(list) = list {
                self.with_slice(list, |list, start, end| communicator.send(&list.slice(start..end), peer))?
                    .map_err(|error| nccl("ncclSend", error))?;
            }
            if let Some(room) = room {
                communicator.recv(room, peer).map_err(|error| nccl("ncclRecv", error))?;
            }
            Ok::<_, Error>(())
        });
        let ended = group_end().map_err(|error| nccl("ncclGroupEnd", error));
        queued.and(ended.map(|_| ()))?;
        let tensor = |(list, length): (CudaSlice<f32>, usize)| {
            let storage = CudaStorage::wrap_cuda_slice(list, self.device.clone());
            Tensor::from_storage(Storage::Cuda(storage), length, BackpropOp::none(), false).to_device(device)
        };
        let lists = received.into_iter().zip(from).map(|(list, length)| list.map(|list| (list, *length)));
        Ok(lists.map(|list| list.map(tensor).transpose()).collect::<candle_core::Result<_>>()?)
    }

    fn leave(&self, reason: &str) {
        self.others.leave(reason);
    }
}

fn nccl(call: &'static str, NcclError(code): NcclError) -> Error {
    failed(call, format!("{code:?}"))
}

fn failed(call: &'static str, reason: String) -> Error {
    Error::Nccl { call, reason }
}
