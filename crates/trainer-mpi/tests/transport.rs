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
    several_exchanges_at_a_time(workers.as_ref());
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

fn several_exchanges_at_a_time(workers: &dyn Workers) {
    let (rank, count) = (workers.rank(), workers.count());
    // Exchange `index` is longer than MPI sends at once, or without numbers; and those of one worker differ in length from those
    // of another one.
    let length = |index: usize, from: usize| if index % 3 == 2 { 0 } else { 70_000 * index + 1000 * from };
    let number = |index: usize, from: usize, at: usize| ((index + 10 * from + 100 * at) % 100_003) as f32;
    let start = |index: usize| {
        let numbers = (0..length(index, rank)).map(|at| number(index, rank, at)).collect();
        // Every worker gets all numbers: the ranges overlap.
        let to = vec![0..length(index, rank); count];
        let from: Vec<usize> = (0..count).map(|from| length(index, from)).collect();
        workers.start_exchange(numbers, &to, &from).unwrap()
    };
    let mut exchanges: Vec<_> = (0..6).map(start).collect();
    exchanges.iter_mut().for_each(|exchange| exchange.progress());
    for (index, exchange) in exchanges.into_iter().enumerate() {
        let expected =
            (0..count).flat_map(|from| (0..length(index, from)).map(move |at| number(index, from, at)));
        assert!(exchange.wait().unwrap().into_iter().eq(expected), "exchange {index}");
    }
    // Ranges of different lengths: worker 0 sends nothing to itself.
    let to: Vec<_> = (0..count).map(|to| to..2 * to).collect();
    let numbers = (0..2 * count).map(|at| at as f32).collect();
    let received = workers.start_exchange(numbers, &to, &vec![rank; count]).unwrap().wait().unwrap();
    let own: Vec<f32> = (rank..2 * rank).map(|at| at as f32).collect();
    assert_eq!(received, own.repeat(count));
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
