use std::{fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};
use candle_core::Device;

/// The device for all computations. As text: `cpu`, `cuda`, `cuda:N` or `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceName {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number, counted from 0.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map_err(|_| format!("`{n}` is not the number of a GPU"));
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            None if text == "metal" => Ok(Self::Metal),
            Some(("cuda", n)) => Ok(Self::Cuda(number(n)?)),
            _ => Err("must be cpu, cuda, cuda:N or metal".into()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// If the device is a GPU that this build does not support or that does not exist. The CPU is never used
    /// instead.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Metal => {
                if !candle_core::utils::metal_is_available() {
                    bail!(
                        "--device metal: this program was built without Metal; build it on a Mac with `--features metal`, or use \
                         --device cpu"
                    );
                }
                Device::new_metal(0).context("--device metal: cannot open the GPU")
            }
            Self::Cuda(n) => {
                if !candle_core::utils::cuda_is_available() {
                    bail!(
                        "--device {self}: this program was built without CUDA; build it with `--features fused-cuda`, or use --device cpu"
                    );
                }
                train_ops::cuda_device(n).with_context(|| {
                    format!(
                        "--device {self}: cannot open this GPU; `nvidia-smi -L` lists those that there are"
                    )
                })
            }
        }
    }
}

/// Number of NVIDIA GPUs of this machine; 0 in a build without CUDA.
pub(crate) fn cuda_cards() -> usize {
    #[cfg(feature = "cuda")]
    let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count()
        .map_or(0, |count| count.max(0) as usize);
    #[cfg(not(feature = "cuda"))]
    let count = 0;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_shown_alike() {
        for (text, device) in [
            ("cpu", DeviceName::Cpu),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:3", DeviceName::Cuda(3)),
            ("metal", DeviceName::Metal),
        ] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            assert!(text.parse::<DeviceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_cpu_is_always_available_and_a_missing_gpu_is_an_error() {
        assert!(DeviceName::Cpu.open().unwrap().is_cpu());
        let message = format!("{:#}", DeviceName::Cuda(4095).open().unwrap_err());
        assert!(message.starts_with("--device cuda:4095: "), "{message}");
        if !candle_core::utils::metal_is_available() {
            let message = format!("{:#}", DeviceName::Metal.open().unwrap_err());
            assert!(
                message.starts_with("--device metal: ") && message.contains("--features metal"),
                "{message}"
            );
        }
    }
}
