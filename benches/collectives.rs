//! Speed of two ranks' collectives, each rank a process, for `benches/peers/collectives` to compare:
//!
//! ```text
//! cargo bench --bench collectives                                over shared memory
//! cargo bench --bench collectives -- tcp                         over TCP, on this host
//! mpirun -n 2 PATH/collectives-HASH                              over MPI, built with --features mpi
//! ```
//! With `small` it measures an all-gather of 32 bytes a rank instead, as device ranks call the roll in every step.
//!
//! Prints a line of JSON for each collective and size: seconds of every round, of the slower rank.

use std::error::Error;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use streamrec::comm::{
    Communicator, Message, ReduceOp, Route, Settings, SharedMemory, Tcp, all_gather_pod,
};
use streamrec_launcher::{RankEnvironment, Source, Store, free_port};

const SIZES_BYTES: [usize; 3] = [1 << 20, 25 << 20, 100 << 20];
const WARM_UP: usize = 5;

/// What a device rank says of itself in every step.
const SMALL_BYTES: usize = 32;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let environment = RankEnvironment::from_process()?;
    match environment.source {
        Source::Single => start_ranks(),
        Source::Torchrun => {
            let patience = Duration::from_secs(60);
            let store = Store::join(&environment, patience)?;
            let (rank, size) = (environment.rank, environment.world_size);
            let settings = Settings::default();
            if is_asked("tcp") {
                let comm = Tcp::connect(rank, size, &store, Route::LOOPBACK, settings)?;
                store.barrier("connected", patience)?;
                measure("StreamRec, TCP", &comm)?;
            } else {
                let comm = SharedMemory::connect(rank, size, &store, settings)?;
                store.barrier("connected", patience)?;
                measure("StreamRec, shared memory", &comm)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => over_mpi(),
    }
}

fn is_asked(option: &str) -> bool {
    std::env::args().any(|argument| argument == option)
}

fn start_ranks() -> Result<ExitCode, Box<dyn Error>> {
    let (program, master_port, world_size) = (std::env::current_exe()?, free_port()?, 2);
    let spawn = |rank| {
        let environment = RankEnvironment {
            rank,
            local_rank: rank,
            world_size,
            local_world_size: world_size,
            master_port,
            ..RankEnvironment::single()
        };
        let mut command = Command::new(&program);
        command.args(std::env::args().skip(1));
        command.envs(environment.variables()).spawn()
    };
    let ranks: Vec<_> = (0..world_size).map(spawn).collect::<Result<_, _>>()?;
    let mut code = ExitCode::SUCCESS;
    for mut rank in ranks {
        if !rank.wait()?.success() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

#[cfg(feature = "mpi")]
fn over_mpi() -> Result<ExitCode, Box<dyn Error>> {
    let job = streamrec::comm::MpiJob::begin()?;
    let comm = streamrec::comm::Mpi::connect(&job, Settings::default())?;
    measure("StreamRec, MPI", &comm)?;
    drop(comm);
    job.finish(Duration::from_secs(60))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "mpi"))]
fn over_mpi() -> Result<ExitCode, Box<dyn Error>> {
    Err("built without MPI: add --features mpi".into())
}

fn measure(name: &str, comm: &dyn Communicator) -> Result<(), Box<dyn Error>> {
    if !is_asked("small") {
        return measure_all(name, comm);
    }
    report(name, "all-gather", SMALL_BYTES, comm, &mut || {
        black_box(comm.gather_now(vec![1; SMALL_BYTES])?);
        Ok(())
    })
}

fn measure_all(name: &str, comm: &dyn Communicator) -> Result<(), Box<dyn Error>> {
    for bytes in SIZES_BYTES {
        let mut buffer = Some(comm.allocate(bytes / size_of::<f32>())?);
        report(name, "all-reduce", bytes, comm, &mut || {
            buffer = Some(comm.reduce_now(buffer.take().ok_or("lost")?, ReduceOp::Sum)?);
            Ok(())
        })?;
        let part = bytes / comm.size();
        let part = vec![1_u8; part];
        let messages = (0..comm.size()).map(|_| {
            let mut message = comm.message();
            message.extend_from_slice(&part);
            message
        });
        let mut messages: Vec<Message> = messages.collect();
        report(name, "all-to-all", bytes, comm, &mut || {
            messages = comm.exchange_now(std::mem::take(&mut messages))?;
            // Memory that changes hands was copied by nobody: reading it is part of the exchange.
            let words = messages[1 - comm.rank()].as_chunks().0.iter();
            black_box(words.fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word)));
            Ok(())
        })?;
    }
    Ok(())
}

/// Prints the seconds of each round, from a barrier to the result on the slower rank.
fn report(
    name: &str,
    collective: &str,
    bytes: usize,
    comm: &dyn Communicator,
    round: &mut dyn FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let rounds = match bytes {
        SMALL_BYTES => 20_000,
        _ => ((1 << 31) / bytes).clamp(20, 400),
    };
    let mut seconds = Vec::with_capacity(rounds);
    for number in 0..WARM_UP + rounds {
        comm.barrier().wait()?;
        let start = Instant::now();
        round()?;
        if number >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let all = all_gather_pod(comm, &seconds)?;
    let slower = |round: usize| all.iter().map(|own| own[round]).fold(0.0, f64::max);
    let slower: Vec<f64> = (0..rounds).map(slower).collect();
    if comm.rank() == 0 {
        println!(
            "{}",
            serde_json::json!({"name": name, "collective": collective, "bytes": bytes, "seconds": slower})
        );
    }
    Ok(())
}
