//! The phases of a step, their times, and their names in the stand-in's counts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::time::Instant;

use candle_core::Device;
use libloading::os::unix::Library;

use super::common;

/// Seconds of the phases of this name, in their order.
#[derive(Default)]
pub(crate) struct Times(RefCell<HashMap<&'static str, Vec<f64>>>);

impl Times {
    pub(crate) fn median(&self, name: &str) -> f64 {
        common::median(self.0.borrow()[name].clone())
    }
}

/// Measures what was queued since the last call, and begins the next phase.
pub(crate) struct Phases<'a> {
    device: &'a Device,
    times: &'a Times,
    begun: Instant,
    name: &'static str,
    /// Whether what stands in for a GPU counts this step.
    pub(crate) counted: bool,
}

impl<'a> Phases<'a> {
    pub(crate) fn new(device: &'a Device, times: &'a Times, counted: bool) -> Self {
        Self { device, times, begun: Instant::now(), name: "before", counted }
    }

    pub(crate) fn begin(&mut self, name: &'static str) {
        self.device.synchronize().unwrap();
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{:>24} {:>9.2} ms", self.name, 1e3 * seconds);
        self.times.0.borrow_mut().entry(self.name).or_default().push(seconds);
        if self.counted {
            count_as(name);
        }
        (self.name, self.begun) = (name, Instant::now());
    }
}

/// Names the phase for the stand-in's counts, where the program runs on it.
pub(crate) fn count_as(phase: &str) {
    // SAFETY: the stand-in's function takes a string that it copies.
    #[allow(unsafe_code)]
    unsafe {
        let function = b"cuda_stand_in_phase\0";
        if let Ok(name_phase) = Library::this().get::<unsafe extern "C" fn(*const c_char)>(function) {
            name_phase(CString::new(phase).unwrap().as_ptr());
        }
    }
}
