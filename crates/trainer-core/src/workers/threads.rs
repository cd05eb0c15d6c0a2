use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{Exchange, Workers};
use crate::BoxError;

/// Workers that are threads of one process, for example one for each GPU: every thread has a model and a trainer of its own.
///
/// ```
/// use trainer_core::{ThreadWorkers, Workers};
///
/// let greetings = std::thread::scope(|scope| {
///     let greet = |worker: ThreadWorkers| worker.gather(format!("I am {}", worker.rank()).as_bytes()).unwrap();
///     let threads: Vec<_> =
///         ThreadWorkers::new(2).into_iter().map(|worker| scope.spawn(move || greet(worker))).collect();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
/// });
/// assert_eq!(greetings, vec![vec![b"I am 0".to_vec(), b"I am 1".to_vec()]; 2]);
/// ```
///
/// A worker that is dropped, or whose thread panics, ends the others' calls with an error that names it.
#[derive(Debug)]
pub struct ThreadWorkers {
    rank: usize,
    /// One channel to each worker, itself included.
    to: Vec<Sender<Parcel>>,
    /// One channel from each worker. Locked, so that the workers can be shared.
    from: Mutex<Vec<Receiver<Parcel>>>,
}

#[derive(Debug)]
enum Parcel {
    Message(Vec<u8>),
    Numbers(Vec<f32>),
    Left(String),
}

impl ThreadWorkers {
    /// Creates `count` connected workers, by rank: one for each thread.
    pub fn new(count: usize) -> Vec<Self> {
        let mut to: Vec<Vec<Sender<Parcel>>> = (0..count).map(|_| Vec::new()).collect();
        let mut from: Vec<Vec<Receiver<Parcel>>> = (0..count).map(|_| Vec::new()).collect();
        for sender in &mut to {
            for receiver in &mut from {
                let (send, receive) = channel();
                sender.push(send);
                receiver.push(receive);
            }
        }
        let workers = to.into_iter().zip(from).enumerate();
        workers.map(|(rank, (to, from))| Self { rank, to, from: Mutex::new(from) }).collect()
    }

    /// Sends a parcel to each worker and receives one from each, by rank.
    fn swap<P>(
        &self,
        parcel: impl Fn(usize) -> Parcel,
        open: impl Fn(Parcel) -> Result<P, Parcel>,
    ) -> Result<Vec<P>, BoxError> {
        self.send(parcel);
        self.receive(open)
    }

    /// Never waits: channels hold any number of parcels.
    fn send(&self, parcel: impl Fn(usize) -> Parcel) {
        for (rank, to) in self.to.iter().enumerate() {
            // A worker that has ended says so in its own channel, which is read by `receive`.
            let _ = to.send(parcel(rank));
        }
    }

    fn receive<P>(&self, open: impl Fn(Parcel) -> Result<P, Parcel>) -> Result<Vec<P>, BoxError> {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let receive = |(rank, from): (usize, &Receiver<Parcel>)| {
            let parcel = from.recv().unwrap_or_else(|_| Parcel::Left("it is gone".to_owned()));
            open(parcel).map_err(|parcel| match parcel {
                Parcel::Left(reason) => format!("worker {rank} has left: {reason}").into(),
                _ => format!("worker {rank} makes other calls than worker {}", self.rank).into(),
            })
        };
        from.iter().enumerate().map(receive).collect()
    }

    /// Receives the segments of an exchange, of which that of worker `r` has `from[r]` numbers.
    fn receive_segments(&self, from: &[usize]) -> Result<Vec<f32>, BoxError> {
        let segments = self.receive(|parcel| match parcel {
            Parcel::Numbers(numbers) => Ok(numbers),
            other => Err(other),
        })?;
        match segments.iter().zip(from).position(|(segment, expected)| segment.len() != *expected) {
            None => Ok(segments.concat()),
            Some(rank) => {
                let (sent, expected) = (segments[rank].len(), from[rank]);
                Err(format!("worker {rank} sent {sent} numbers, and {expected} were expected").into())
            }
        }
    }
}

/// An exchange whose numbers are sent, and not yet received.
struct Sent<'a> {
    workers: &'a ThreadWorkers,
    from: Vec<usize>,
}

impl Exchange for Sent<'_> {
    fn wait(self: Box<Self>) -> Result<Vec<f32>, BoxError> {
        self.workers.receive_segments(&self.from)
    }
}

impl Workers for ThreadWorkers {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>, BoxError> {
        self.swap(
            |_| Parcel::Message(message.to_vec()),
            |parcel| match parcel {
                Parcel::Message(message) => Ok(message),
                other => Err(other),
            },
        )
    }

    fn exchange(&self, numbers: &[f32], to: &[usize], from: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.send(|rank| {
            let start: usize = to[..rank].iter().sum();
            Parcel::Numbers(numbers[start..start + to[rank]].to_vec())
        });
        self.receive_segments(from)
    }

    fn start_exchange<'a>(
        &'a self,
        numbers: Vec<f32>,
        to: &[Range<usize>],
        from: &[usize],
    ) -> Result<Box<dyn Exchange + 'a>, BoxError> {
        self.send(|rank| Parcel::Numbers(numbers[to[rank].clone()].to_vec()));
        Ok(Box::new(Sent { workers: self, from: from.to_vec() }))
    }

    fn gather_numbers(&self, numbers: &[f32], lengths: &[usize]) -> Result<Vec<f32>, BoxError> {
        self.exchange(&numbers.repeat(self.count()), &vec![numbers.len(); self.count()], lengths)
    }

    fn leave(&self, reason: &str) {
        for to in &self.to {
            // A worker that has ended needs no notice.
            let _ = to.send(Parcel::Left(reason.to_owned()));
        }
    }
}

impl Drop for ThreadWorkers {
    fn drop(&mut self) {
        self.leave(if thread::panicking() { "its thread panicked" } else { "it is done" });
    }
}
