use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use crate::{Error, Result, host_numbers};

/// The number of real keys of each sample in a padded batch. Padding follows them, and no query attends to it.
#[derive(Clone, Debug)]
pub struct KeyLengths(Arc<Lengths>);

#[derive(Debug)]
struct Lengths {
    host: Box<[usize]>,
    /// The same on the first device that asked for them, copied once for all layers.
    device: OnceLock<Tensor>,
}

impl PartialEq for KeyLengths {
    fn eq(&self, other: &Self) -> bool {
        self.0.host == other.0.host
    }
}

impl Eq for KeyLengths {}

impl KeyLengths {
    /// One number for each sample, each at least 1.
    pub fn new(lengths: impl Into<Box<[usize]>>) -> Self {
        Self(Arc::new(Lengths { host: lengths.into(), device: OnceLock::new() }))
    }

    /// The lengths on a device, u32. In the work of a [`DeviceGraph`](crate::DeviceGraph) they are [`host_numbers`].
    ///
    /// # Errors
    /// If the device has no memory.
    pub fn on(&self, device: &Device) -> Result<Tensor> {
        if let Some(tensor) = self.0.device.get().filter(|tensor| tensor.device().same_device(device)) {
            return Ok(tensor.clone());
        }
        let lengths: Vec<u32> = self.0.host.iter().map(|length| *length as u32).collect();
        let tensor = host_numbers(&lengths, device)?;
        // Unless another device was first.
        let _ = self.0.device.set(tensor.clone());
        Ok(tensor)
    }

    /// The number of real keys of a sample.
    pub(super) fn of(&self, sample: usize) -> usize {
        self.0.host[sample]
    }

    /// Checks that there is a number for each of `batch` samples, and that none is larger than `keys`.
    pub(super) fn check(&self, batch: usize, keys: usize) -> Result<()> {
        let lengths = &self.0.host;
        if lengths.len() == batch && lengths.iter().all(|length| (1..=keys).contains(length)) {
            return Ok(());
        }
        Err(Error::Shape {
            path: "attention's key lengths".to_owned(),
            expected: format!("({batch}), each from 1 to {keys}"),
            got: lengths.to_vec(),
        })
    }
}
