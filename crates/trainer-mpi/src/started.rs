//! Exchanges that run while the process computes.

use std::mem::{self, ManuallyDrop};
use std::ops::Range;

use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Equivalence;
use trainer_core::{BoxError, Exchange};

use crate::patience::Patience;
use crate::transport::{MpiWorkers, starts, total};

/// A nonblocking all-to-all operation. MPI moves it on within its own calls only: in those of [`progress`](Exchange::progress),
/// which the engine makes between the layers of a backward pass, and while the process waits.
pub(crate) struct Started<'a> {
    workers: &'a MpiWorkers,
    request: ffi::MPI_Request,
    is_done: bool,
    buffers: ManuallyDrop<Buffers>,
}

/// The memory that MPI reads and writes until the operation is done. Nothing here is moved or changed meanwhile.
struct Buffers {
    sent: Vec<f32>,
    received: Vec<f32>,
    to: [Vec<i32>; 2],
    from: [Vec<i32>; 2],
}

impl<'a> Started<'a> {
    pub(crate) fn new(
        workers: &'a MpiWorkers,
        mut sent: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Self, BoxError> {
        let number = |number: usize| {
            i32::try_from(number).map_err(|_| format!("an exchange of {number} numbers is too long for MPI"))
        };
        let numbers = |list: &mut dyn Iterator<Item = usize>| list.map(number).collect::<Result<Vec<_>, _>>();
        let to =
            [numbers(&mut to.iter().map(Range::len))?, numbers(&mut to.iter().map(|range| range.start))?];
        number(from.iter().sum())?;
        let from = numbers(&mut from.iter().copied())?;
        let from_starts = starts(&from);
        // Never without elements: an empty vector has no memory that a pointer could point to.
        sent.reserve(1);
        let received = vec![0.0; total(&from).max(1)];
        let mut buffers = Buffers { sent, received, to, from: [from, from_starts] };
        let _turn = workers.turn()?;
        let mut request = mem::MaybeUninit::uninit();
        // SAFETY: counts and starts have an element for each process, and lie within the two lists, as `to` are ranges of `sent` and
        // `received` has room for all of `from`. The buffers live until the operation is done: `wait` frees them after that, and a
        // `Started` that is dropped before never does. The turn ensures that no other thread is in MPI.
        #[allow(unsafe_code)]
        let request = unsafe {
            ffi::MPI_Ialltoallv(
                buffers.sent.as_ptr().cast(),
                buffers.to[0].as_ptr(),
                buffers.to[1].as_ptr(),
                f32::equivalent_datatype().as_raw(),
                buffers.received.as_mut_ptr().cast(),
                buffers.from[0].as_ptr(),
                buffers.from[1].as_ptr(),
                f32::equivalent_datatype().as_raw(),
                SimpleCommunicator::world().as_raw(),
                request.as_mut_ptr(),
            );
            request.assume_init()
        };
        Ok(Self { workers, request, is_done: false, buffers: ManuallyDrop::new(buffers) })
    }

    fn test(&mut self) -> Result<bool, BoxError> {
        if !self.is_done {
            let _turn = self.workers.turn()?;
            let mut flag = 0;
            // SAFETY: the request is active, as it is not done. MPI ignores the status at this address.
            #[allow(unsafe_code)]
            unsafe {
                ffi::MPI_Test(&mut self.request, &mut flag, ffi::RSMPI_STATUS_IGNORE);
            }
            self.is_done = flag != 0;
        }
        Ok(self.is_done)
    }
}

impl Exchange for Started<'_> {
    fn progress(&mut self) {
        // An error comes back from `wait`.
        let _ = self.test();
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<f32>, BoxError> {
        let mut patience = Patience::default();
        while !self.test()? {
            patience.pause();
        }
        let length = total(&self.buffers.from[0]);
        let mut received = mem::take(&mut self.buffers.received);
        received.truncate(length);
        Ok(received)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        // Otherwise the job is about to end, and MPI may still use the memory.
        if self.is_done {
            // SAFETY: nothing uses the buffers after this.
            #[allow(unsafe_code)]
            unsafe {
                ManuallyDrop::drop(&mut self.buffers);
            }
        }
    }
}
