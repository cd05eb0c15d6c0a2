use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Throughput, resident_bytes};

/// The clock and counters of this process, which a resume resets.
pub(crate) struct Session {
    started: Instant,
    pub(crate) step_started: Instant,
    seconds_before: f64,
    first_step: usize,
    samples: usize,
    recent: Recent,
    /// The workers' common decisions, as of their last vote.
    pub(crate) votes: Votes,
}

/// Decisions that all workers take together: if one worker stopped alone, the others would wait for it forever.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Votes {
    pub(crate) stop: bool,
    pub(crate) out_of_time: bool,
}

/// Work since the previous throughput report.
#[derive(Default)]
struct Recent {
    samples: usize,
    targets: usize,
    seconds: f64,
}

/// Work of the whole session.
pub(crate) struct Totals {
    pub(crate) seconds: f64,
    pub(crate) steps: usize,
    pub(crate) samples: usize,
}

impl Session {
    /// Starts a session after `first_step` completed steps, which took `seconds_before`.
    pub(crate) fn begin(first_step: usize, seconds_before: f64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            step_started: now,
            seconds_before,
            first_step,
            samples: 0,
            recent: Recent::default(),
            votes: Votes::default(),
        }
    }

    /// Seconds of training, including the time before a resume.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn add(&mut self, samples: usize, targets: usize, seconds: f64) {
        self.samples += samples;
        self.recent.samples += samples;
        self.recent.targets += targets;
        self.recent.seconds += seconds;
    }

    /// Reports the speed since the previous call.
    pub(crate) fn throughput(&mut self, global_step: usize) -> Throughput {
        let Recent { samples, targets, seconds } = std::mem::take(&mut self.recent);
        Throughput {
            global_step,
            samples_per_second: samples as f64 / seconds,
            tokens_per_second: targets as f64 / seconds,
            memory: resident_bytes(),
        }
    }

    pub(crate) fn totals(&self, global_step: usize) -> Totals {
        let seconds = self.started.elapsed().as_secs_f64();
        Totals { seconds, steps: global_step - self.first_step, samples: self.samples }
    }
}
