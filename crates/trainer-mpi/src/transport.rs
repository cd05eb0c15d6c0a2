//! Collective operations of MPI, for messages of any size, without spinning while the others compute.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Equivalence, Partition, PartitionMut};
use mpi::environment::is_finalized;
use mpi::topology::{Communicator, SimpleCommunicator};
use trainer_core::{BoxError, Exchange, Workers};

use crate::patience::Patience;
use crate::started::Started;

/// Elements that one operation sends from one process to another. MPI counts in 32 bits, over all processes.
const BLOCK: usize = 1 << 24;

/// The processes of the job. MPI ends the whole job when an operation fails, so that no error comes back from it.
pub(crate) struct MpiWorkers {
    rank: usize,
    count: usize,
    block: usize,
    /// One thread at a time may call MPI.
    turn: Mutex<()>,
}

impl MpiWorkers {
    pub(crate) fn new(world: &SimpleCommunicator) -> Self {
        let (rank, count) = (world.rank() as usize, world.size() as usize);
        let block = BLOCK.min(i32::MAX as usize / count);
        Self { rank, count, block, turn: Mutex::new(()) }
    }

    /// Waits until all processes are here.
    pub(crate) fn meet(&self) {
        let mut request = SimpleCommunicator::world().immediate_barrier();
        let mut patience = Patience::default();
        while let Err(pending) = request.test() {
            request = pending;
            patience.pause();
        }
    }

    /// The right to call MPI, until it is dropped. An error if MPI is finalised.
    pub(crate) fn turn(&self) -> Result<MutexGuard<'_, ()>, BoxError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if is_finalized() {
            return Err("the MPI job has ended".into());
        }
        Ok(turn)
    }

    /// Runs collective operations when all processes are here.
    fn together<R>(&self, work: impl FnOnce(&SimpleCommunicator) -> R) -> Result<R, BoxError> {
        let _turn = self.turn()?;
        self.meet();
        Ok(work(&SimpleCommunicator::world()))
    }

    /// The elements of all processes, by rank, of which process `r` has `lengths[r]`.
    fn gather_blocks<T: Equivalence + Copy + Default>(
        &self,
        world: &SimpleCommunicator,
        own: &[T],
        lengths: &[usize],
    ) -> Vec<Vec<T>> {
        let mut all: Vec<Vec<T>> = lengths.iter().map(|length| Vec::with_capacity(*length)).collect();
        let longest = lengths.iter().copied().max().unwrap_or_default();
        for start in (0..longest).step_by(self.block) {
            let counts = counts(lengths, start, self.block);
            let starts = starts(&counts);
            let mut received = vec![T::default(); total(&counts)];
            let block = &own[start.min(own.len())..(start + self.block).min(own.len())];
            world.all_gather_varcount_into(
                allocated(block, &[T::default()]),
                &mut PartitionMut::new(&mut received[..], &counts[..], &starts[..]),
            );
            for ((to, count), start) in all.iter_mut().zip(&counts).zip(&starts) {
                to.extend_from_slice(&received[*start as usize..(*start + *count) as usize]);
            }
        }
        all
    }

    /// The largest of the processes' numbers.
    fn largest(&self, world: &SimpleCommunicator, number: usize) -> usize {
        let mut all = vec![0u64; self.count];
        world.all_gather_into(&(number as u64), &mut all[..]);
        all.into_iter().max().unwrap_or_default() as usize
    }
}

impl Workers for MpiWorkers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.count
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        self.together(|world| {
            let mut lengths = vec![0u64; self.count];
            world.all_gather_into(&(message.len() as u64), &mut lengths[..]);
            let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
            self.gather_blocks(world, message, &lengths)
        })
    }

    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.together(|world| {
            let longest = to.iter().chain(from).copied().max().unwrap_or_default();
            let longest = self.largest(world, longest);
            let mut segments: Vec<Vec<f32>> = from.iter().map(|length| Vec::with_capacity(*length)).collect();
            for start in (0..longest).step_by(self.block) {
                let sent = blocks(numbers, to, start, self.block);
                let (to, from) = (counts(to, start, self.block), counts(from, start, self.block));
                let (to_starts, from_starts) = (starts(&to), starts(&from));
                // Never without elements: an empty vector has no memory that a pointer could point to.
                let mut received = vec![0f32; total(&from).max(1)];
                world.all_to_all_varcount_into(
                    &Partition::new(allocated(&sent, &[0.0]), &to[..], &to_starts[..]),
                    &mut PartitionMut::new(&mut received[..], &from[..], &from_starts[..]),
                );
                for ((segment, count), start) in segments.iter_mut().zip(&from).zip(&from_starts) {
                    segment.extend_from_slice(&received[*start as usize..(*start + *count) as usize]);
                }
            }
            segments.concat()
        })
    }

    fn start_exchange<'a>(
        &'a self,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Box<dyn Exchange + 'a>, BoxError> {
        Ok(Box::new(Started::new(self, numbers, to, from)?))
    }

    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.together(|world| self.gather_blocks(world, numbers, lengths).concat())
    }
}

/// How many of the elements from `start` on are in the next block, for each length.
fn counts(lengths: &[usize], start: usize, block: usize) -> Vec<i32> {
    lengths.iter().map(|length| length.saturating_sub(start).min(block) as i32).collect()
}

/// Where the parts of a joined list start.
pub(crate) fn starts(counts: &[i32]) -> Vec<i32> {
    let start = |next: &mut i32, count: &i32| {
        *next += count;
        Some(*next - count)
    };
    counts.iter().scan(0, start).collect()
}

pub(crate) fn total(counts: &[i32]) -> usize {
    counts.iter().map(|count| *count as usize).sum()
}

/// The elements of a block of each segment, joined.
fn blocks(numbers: &[f32], lengths: &[usize], start: usize, block: usize) -> Vec<f32> {
    let mut first = 0;
    let mut joined = Vec::new();
    for length in lengths {
        let segment = &numbers[first..first + length];
        joined.extend_from_slice(&segment[start.min(*length)..(start + block).min(*length)]);
        first += length;
    }
    joined
}

/// A slice to send that points to memory even if it is empty. The pointer of an empty `Vec` is its alignment, which for bytes
/// is 1: Open MPI's `MPI_IN_PLACE`.
fn allocated<'a, T>(slice: &'a [T], memory: &'a [T]) -> &'a [T] {
    if slice.is_empty() { &memory[..0] } else { slice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_into_blocks_that_together_are_the_segments() {
        let numbers: Vec<f32> = (0..10).map(|number| number as f32).collect();
        let lengths = [5, 0, 2, 3];
        let cut: Vec<Vec<f32>> =
            (0..5).step_by(2).map(|start| blocks(&numbers, &lengths, start, 2)).collect();
        assert_eq!(cut, [vec![0., 1., 5., 6., 7., 8.], vec![2., 3., 9.], vec![4.]]);
        assert_eq!(counts(&lengths, 2, 2), [2, 0, 0, 1]);
        assert_eq!(starts(&[2, 0, 0, 1]), [0, 2, 2, 2]);
    }
}
