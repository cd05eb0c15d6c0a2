//! GPUs of several processes, and their connection by NCCL.

use std::sync::Arc;

#[cfg(feature = "nccl")]
use anyhow::Context as _;
use anyhow::{Result, bail};
use candle_core::Device;
use trainer_core::Workers;

use crate::options::DeviceName;

/// The GPU of process `rank` of a machine with `cards` GPUs, if that of process 0 is `first`.
pub(super) fn gpu_of_rank(first: usize, rank: usize, cards: usize) -> usize {
    match cards.saturating_sub(first) {
        0 => first,
        others => first + rank % others,
    }
}

/// Refuses NCCL if it cannot be used, before the process waits for others.
pub(super) fn nccl_is_possible(device: DeviceName) -> Result<()> {
    if !cfg!(feature = "nccl") {
        bail!(
            "--distributed nccl: the program was built without NCCL: build it with --features nccl, which needs CUDA, NVIDIA's NCCL, an \
             MPI library and libclang"
        );
    }
    if !matches!(device, DeviceName::Cuda(_)) {
        bail!(
            "--distributed nccl connects NVIDIA GPUs, and the device is {device}: add --device cuda, or use --distributed mpi"
        );
    }
    Ok(())
}

#[cfg(feature = "nccl")]
pub(super) fn over_nccl(workers: &Arc<dyn Workers>, device: &Device) -> Result<Arc<dyn Workers>> {
    let workers = trainer_core::NcclWorkers::new(Arc::clone(workers), device);
    Ok(Arc::new(workers.context("--distributed nccl")?))
}

#[cfg(not(feature = "nccl"))]
pub(super) fn over_nccl(workers: &Arc<dyn Workers>, _: &Device) -> Result<Arc<dyn Workers>> {
    Ok(Arc::clone(workers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_machine_take_one_gpu_after_another() {
        let of_four = |first, cards| [0, 1, 2, 3].map(|rank| gpu_of_rank(first, rank, cards));
        assert_eq!(of_four(0, 4), [0, 1, 2, 3]);
        assert_eq!(of_four(1, 4), [1, 2, 3, 1]);
        assert_eq!(of_four(0, 1), [0; 4]);
        // There is no such GPU, so opening it fails.
        assert_eq!(of_four(5, 4), [5; 4]);
        assert_eq!(of_four(0, 0), [0; 4]);
    }

    #[test]
    fn nccl_is_refused_for_other_devices_or_without_its_feature() {
        for device in [DeviceName::Cpu, DeviceName::Metal] {
            let message = nccl_is_possible(device).unwrap_err().to_string();
            let expected = if cfg!(feature = "nccl") { "--device cuda" } else { "--features nccl" };
            assert!(message.starts_with("--distributed nccl") && message.contains(expected), "{message}");
        }
        assert_eq!(nccl_is_possible(DeviceName::Cuda(0)).is_ok(), cfg!(feature = "nccl"));
    }
}
