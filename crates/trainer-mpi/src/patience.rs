use std::thread;
use std::time::Duration;

/// Pauses between polls of an MPI operation. MPI's own wait would keep the processor busy, and other processes on the same cores would
/// compute more slowly.
pub(crate) struct Patience {
    polls: u32,
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { polls: 0, pause: Duration::from_micros(20) }
    }
}

impl Patience {
    /// Yields at first; after 200 polls, sleeps for longer and longer times, up to half a millisecond.
    pub(crate) fn pause(&mut self) {
        const SHORT: u32 = 200;
        const LONGEST: Duration = Duration::from_micros(500);
        self.polls += 1;
        if self.polls < SHORT {
            thread::yield_now();
        } else {
            thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
        }
    }
}
