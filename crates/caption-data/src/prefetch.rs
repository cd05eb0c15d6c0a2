use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::{Error, Result};

/// An iterator whose items are computed in advance by worker threads, and are returned in order.
///
/// At most `queue` items are finished or in progress before they are requested, so memory stays bounded however
/// slow the consumer is. An item that cannot be computed is an error at its position, and the items after it
/// are still returned. Dropping the iterator stops the workers after their current items.
///
/// ```
/// use caption_data::Prefetch;
///
/// let squares = Prefetch::new(0..5u64, 2, 4, |n| Ok(n * n))?;
/// assert_eq!(squares.collect::<Result<Vec<_>, _>>()?, [0, 1, 4, 9, 16]);
/// # Ok::<(), caption_data::Error>(())
/// ```
pub struct Prefetch<T> {
    tasks: Box<dyn Iterator<Item = Task<T>> + Send>,
    queue: usize,
    /// The receivers of the items in progress, in order.
    ahead: VecDeque<Receiver<Result<T>>>,
    /// `None` while the iterator is being dropped, which ends the workers.
    to_workers: Option<Sender<Job<T>>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

type Task<T> = Box<dyn FnOnce() -> Result<T> + Send>;

/// A task, and the channel for its item.
type Job<T> = (Task<T>, Sender<Result<T>>);

impl<T: Send + 'static> Prefetch<T> {
    /// Makes one item of each job with `make`, on `workers` threads and up to `queue` items ahead (at least
    /// one of each). Work begins at once.
    ///
    /// # Errors
    /// If the operating system cannot start a thread.
    pub fn new<J: Send + 'static>(
        jobs: impl IntoIterator<Item = J, IntoIter: Send + 'static>,
        workers: usize,
        queue: usize,
        make: impl Fn(J) -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let make = Arc::new(make);
        let task = move |job| {
            let make = Arc::clone(&make);
            Box::new(move || make(job)) as Task<T>
        };
        let (to_workers, tasks) = mpsc::channel();
        let mut this = Self {
            tasks: Box::new(jobs.into_iter().map(task)),
            queue: queue.max(1),
            ahead: VecDeque::new(),
            to_workers: Some(to_workers),
            stop: Arc::default(),
            workers: Vec::new(),
        };
        let tasks = Arc::new(Mutex::new(tasks));
        for _ in 0..workers.max(1) {
            let (tasks, stop) = (Arc::clone(&tasks), Arc::clone(&this.stop));
            let worker =
                thread::Builder::new().name("prefetch".to_owned()).spawn(move || work(&tasks, &stop));
            this.workers.push(worker.map_err(|source| Error::Thread { source })?);
        }
        this.fill();
        Ok(this)
    }

    /// Sends tasks to the workers until the maximum number of them is in progress.
    fn fill(&mut self) {
        while self.ahead.len() < self.queue {
            let (Some(task), Some(to_workers)) = (self.tasks.next(), &self.to_workers) else { return };
            let (to_consumer, item) = mpsc::channel();
            // Workers live as long as this sender, so a task is always received.
            let _ = to_workers.send((task, to_consumer));
            self.ahead.push_back(item);
        }
    }
}

fn work<T>(tasks: &Mutex<Receiver<Job<T>>>, stop: &AtomicBool) {
    loop {
        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((task, to_consumer)) = next else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let item = catch_unwind(AssertUnwindSafe(task)).unwrap_or(Err(Error::WorkerPanicked));
        // If the iterator was dropped, the item is not needed.
        let _ = to_consumer.send(item);
    }
}

impl<T: Send + 'static> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let item = self.ahead.pop_front()?;
        self.fill();
        Some(item.recv().unwrap_or(Err(Error::WorkerPanicked)))
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.to_workers = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl<T> std::fmt::Debug for Prefetch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (workers, queue, ahead) = (self.workers.len(), self.queue, self.ahead.len());
        f.debug_struct("Prefetch")
            .field("workers", &workers)
            .field("queue", &queue)
            .field("ahead", &ahead)
            .finish()
    }
}
