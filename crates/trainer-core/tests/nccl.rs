//! Workers whose gradients go from GPU to GPU: on NVIDIA GPUs, of which each worker has one, or on what stands in for them
//! (`.ci/cuda-stand-in`), where all workers may have the same one.

// Helpers of tests may panic.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;
use std::thread;

use candle_core::{Device, Tensor};
use trainer_core::{Error, NcclWorkers, ThreadWorkers, Workers};

/// The results of `work` in `count` workers, each on its GPU.
fn in_threads<R: Send>(count: usize, work: impl Fn(ThreadWorkers) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            ThreadWorkers::new(count).into_iter().map(|worker| scope.spawn(move || work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The GPU of a worker: its own, as NCCL demands, where there are as many.
fn device(rank: usize) -> Device {
    Device::new_cuda(rank).or_else(|_| Device::new_cuda(0)).unwrap()
}

/// The numbers that worker `from` sends to worker `to`: none from or to worker 0.
fn list(from: usize, to: usize) -> Vec<f32> {
    (0..from * to * 1000).map(|index| (index * 31 + from * 7 + to) as f32 * 0.1 - 50.0).collect()
}

#[test]
fn lists_of_any_length_arrive_as_they_were_sent() {
    for count in 1..5 {
        in_threads(count, |worker| {
            let rank = worker.rank();
            let device = device(rank);
            let workers = NcclWorkers::new(Arc::new(worker), &device).unwrap();
            let to: Vec<Option<Tensor>> = (0..count)
                .map(|to| list(rank, to))
                .map(|list| (!list.is_empty()).then(|| Tensor::new(list, &device).unwrap()))
                .collect();
            let from: Vec<usize> = (0..count).map(|from| list(from, rank).len()).collect();
            for _ in 0..3 {
                let received = workers.exchange_on_device(&to, &from, &device).unwrap();
                for (from, received) in received.into_iter().enumerate() {
                    let received = received.map_or_else(Vec::new, |list| list.to_vec1::<f32>().unwrap());
                    assert_eq!(received, list(from, rank), "from {from} to {rank} of {count}");
                }
            }
            // A part of a list that begins anywhere.
            let part =
                |rank: usize| Tensor::new(&[1f32, 2., 3., rank as f32], &device).unwrap().narrow(0, 3, 1);
            let to = vec![Some(part(rank).unwrap()); count];
            let received = workers.exchange_on_device(&to, &vec![1; count], &device).unwrap();
            let received: Vec<f32> =
                received.into_iter().flat_map(|list| list.unwrap().to_vec1::<f32>().unwrap()).collect();
            assert_eq!(received, (0..count).map(|rank| rank as f32).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_worker_without_a_gpu_is_an_error_of_all() {
    let errors = in_threads(3, |worker| {
        let device = if worker.rank() == 2 { Device::Cpu } else { device(worker.rank()) };
        NcclWorkers::new(Arc::new(worker), &device).map(|_| ()).unwrap_err()
    });
    for (rank, error) in errors.iter().enumerate() {
        assert!(matches!(error, Error::Nccl { .. }), "{error}");
        let expected = if rank == 2 { "a GPU" } else { "worker 2 cannot use NCCL" };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
