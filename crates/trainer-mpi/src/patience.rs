use std::thread;
use std::time::Duration;

/// Waits between looks at something that other processes do, with little work for the processor: a wait of MPI itself would keep it
/// busy, and other processes on the same cores would compute more slowly.
pub(crate) struct Patience {
    looks: u32,
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { looks: 0, pause: Duration::from_micros(20) }
    }
}

impl Patience {
    /// Waits a little, and longer the more often it is called.
    pub(crate) fn pause(&mut self) {
        const SHORT: u32 = 200;
        const LONGEST: Duration = Duration::from_micros(500);
        self.looks += 1;
        if self.looks < SHORT {
            thread::yield_now();
        } else {
            thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(LONGEST);
        }
    }
}
