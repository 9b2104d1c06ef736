//! Speed of the shared-memory all-reduce: `cargo bench --bench all_reduce [ranks]`.
//!
//! Prints for each size the median time, the bytes of the buffer by that time, and the bus
//! bandwidth `2 (n-1)/n * bytes / time`, by which all-reduces of any number of ranks compare
//! (NCCL tests, `PERFORMANCE.md`).

use std::time::Instant;

use streamrec::comm::{CommError, Communicator, ReduceOp, Settings, SharedMemory};

const SIZES_BYTES: [usize; 6] = [4, 4 << 10, 64 << 10, 1 << 20, 25 << 20, 100 << 20];
const WARM_UP: usize = 3;

fn main() -> Result<(), CommError> {
    // Cargo passes `--bench`.
    let ranks = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(2);
    println!("all-reduce over {ranks} ranks (threads, each with its own mappings)");
    println!(
        "{:>12} {:>12} {:>12} {:>12}",
        "bytes", "median us", "GB/s", "bus GB/s"
    );
    let world = SharedMemory::connect_threads(ranks, &Settings::default())?;
    for bytes in SIZES_BYTES {
        let seconds = std::thread::scope(|scope| {
            let threads: Vec<_> = world
                .iter()
                .map(|comm| scope.spawn(move || measure(comm, bytes)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            let results = joined.map(|result| result.unwrap_or(Err(CommError::Abandoned)));
            results.collect::<Result<Vec<f64>, _>>()
        })?;
        let slowest = seconds.into_iter().fold(0.0, f64::max);
        let speed = bytes as f64 / slowest / 1e9;
        let bus = speed * 2.0 * (ranks - 1) as f64 / ranks as f64;
        println!(
            "{bytes:>12} {:>12.1} {speed:>12.2} {bus:>12.2}",
            slowest * 1e6
        );
    }
    Ok(())
}

/// The median seconds of an all-reduce of `bytes`, from the submission to the end of the wait.
fn measure(comm: &SharedMemory, bytes: usize) -> Result<f64, CommError> {
    let rounds = ((1 << 31) / bytes.max(1 << 20)).clamp(20, 1000);
    let mut buffer = comm.allocate(bytes / size_of::<f32>())?;
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..WARM_UP + rounds {
        comm.barrier().wait()?;
        let start = Instant::now();
        buffer = comm.all_reduce(buffer, ReduceOp::Sum).wait()?;
        if round >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
