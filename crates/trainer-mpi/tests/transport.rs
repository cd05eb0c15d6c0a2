//! The operations between the processes of a job: `mpirun -n 3 target/release/deps/transport-…`. Alone, it is a job of one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, which ends the job")]

use trainer_core::Workers;
use trainer_mpi::{Job, Launch};

/// More than the transport sends at a time.
const LONG: usize = (1 << 24) + 1000;

fn main() {
    let launch = Launch::detect();
    let job = Job::join().unwrap();
    assert!(Job::join().is_err(), "a process joins once");
    let workers = job.workers();
    let (rank, count) = (workers.rank(), workers.count());
    assert_eq!(launch.map_or((0, 1), |launch| (launch.rank, launch.count)), (rank, count));
    assert!(job.placement().processes_here <= count && job.placement().machines <= count);

    messages_of_any_length(workers.as_ref());
    segments_of_any_length(workers.as_ref());
    long_messages(workers.as_ref());
    job.finish();
    assert!(workers.gather(b"late").is_err(), "the job has ended");
    if rank == 0 {
        println!("transport between {count} processes: ok");
    }
}

fn messages_of_any_length(workers: &dyn Workers) {
    let count = workers.count();
    let message = |rank: usize| vec![rank as u8; rank * 3];
    for _ in 0..50 {
        // That of worker 0 is empty.
        let all = workers.gather(&message(workers.rank())).unwrap();
        assert_eq!(all, (0..count).map(message).collect::<Vec<_>>());
    }
    assert_eq!(workers.gather(&[]).unwrap(), vec![Vec::<u8>::new(); count], "all are empty");
    // Only worker 0 has numbers.
    let mut lengths = vec![0; count];
    lengths[0] = 4;
    let own: &[f32] = if workers.rank() == 0 { &[1.0, -0.0, f32::NAN, 3.0] } else { &[] };
    let bits: Vec<u32> =
        workers.gather_numbers(own, &lengths).unwrap().into_iter().map(f32::to_bits).collect();
    assert_eq!(bits, [1.0, -0.0, f32::NAN, 3.0].map(f32::to_bits), "every bit arrives");
    assert!(workers.gather_numbers(&[], &vec![0; count]).unwrap().is_empty());
}

fn segments_of_any_length(workers: &dyn Workers) {
    let (rank, count) = (workers.rank(), workers.count());
    // Worker `a` sends `a * b` numbers to worker `b`, so that worker 0 sends and receives none.
    let segment = |from: usize, to: usize| vec![(10 * from + to) as f32; from * to];
    let numbers: Vec<f32> = (0..count).flat_map(|to| segment(rank, to)).collect();
    let lengths: Vec<usize> = (0..count).map(|other| rank * other).collect();
    let received = workers.exchange(&numbers, &lengths, &lengths).unwrap();
    assert_eq!(received, (0..count).flat_map(|from| segment(from, rank)).collect::<Vec<_>>());
    let none = vec![0; count];
    assert!(workers.exchange(&[], &none, &none).unwrap().is_empty());
}

fn long_messages(workers: &dyn Workers) {
    let (rank, count) = (workers.rank(), workers.count());
    // Worker 0 sends a long segment to the last one, and all others send nothing.
    let last = count - 1;
    let number = |index: usize| (index % 1009) as f32;
    let numbers: Vec<f32> = if rank == 0 { (0..LONG).map(number).collect() } else { Vec::new() };
    let (mut to, mut from) = (vec![0; count], vec![0; count]);
    if rank == 0 {
        to[last] = LONG;
    }
    if rank == last {
        from[0] = LONG;
    }
    let received = workers.exchange(&numbers, &to, &from).unwrap();
    assert_eq!(received.len(), if rank == last { LONG } else { 0 });
    assert!(received.iter().enumerate().all(|(index, value)| *value == number(index)));

    let message = vec![7u8; if rank == last { LONG } else { 1 }];
    let all = workers.gather(&message).unwrap();
    assert_eq!(all[last].len(), LONG);
}
