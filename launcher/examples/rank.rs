//! A rank that trains nothing: it meets the others, steps in lockstep with them, and reports to its launcher.
//!
//! `rank STEPS [FAULT RANK STEP]` does STEPS steps. With a fault (`kill`, `stop`, `hang`, `leave`, `exit-3`, `fail` or
//! `usage`), rank RANK suffers it at step STEP of the first attempt. On SIGTERM it leaves with code 0.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use streamrec_launcher::{
    Channel, LostLauncher, RankEnvironment, RendezvousError, Reporter, Store, bind_to_parent,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let steps: u64 = args
        .first()
        .ok_or("usage: rank STEPS [FAULT RANK STEP]")?
        .parse()?;
    let told_to_stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&told_to_stop))?;

    if std::env::var_os("UNBOUND").is_none() {
        bind_to_parent()?;
    }
    let environment = RankEnvironment::from_process()?;
    let lost = match std::env::var_os("UNWATCHED") {
        None => LostLauncher::Exit,
        Some(_) => LostLauncher::Continue,
    };
    let reporter = Reporter::from_process(&environment, lost)?;
    let store = Store::join(&environment, Duration::from_secs(10))?;
    let rank = environment.rank;
    println!(
        "rank {rank} of {} is process {}",
        environment.world_size,
        std::process::id()
    );

    let channel = reporter.channel();
    for step in 0..steps {
        leave_if(&told_to_stop);
        reporter.set_step(step);
        reporter.set_phase("forward");
        if let [_, fault, at_rank, at_step] = args.as_slice() {
            let here = (at_rank.parse::<usize>()?, at_step.parse::<u64>()?) == (rank, step);
            if here && environment.restart_count == 0 {
                suffer(fault, &reporter)?;
            }
        }
        sleep(Duration::from_millis(5));
        reporter.set_phase("reduce");
        channel.enter_collective("all_reduce", step);
        meet(&store, &reporter, &channel, &told_to_stop)?;
        channel.leave_collective();
    }
    println!("rank {rank} finished");
    Ok(())
}

/// Waits for all ranks, as a communicator does: names those that are missing, and gives up when the launcher does.
fn meet(
    store: &Store,
    reporter: &Reporter,
    channel: &Channel,
    told_to_stop: &AtomicBool,
) -> Result<(), Failure> {
    loop {
        match store.barrier("step", Duration::from_millis(50)) {
            Ok(()) => return Ok(()),
            Err(RendezvousError::MissingRanks { missing, .. }) => channel.set_waiting_for(&missing),
            // Rank 0 has left first.
            Err(_) if told_to_stop.load(Ordering::Relaxed) => leave_if(told_to_stop),
            Err(error) => {
                reporter.fail(&error.to_string(), &[0]);
                return Err(error.into());
            }
        }
        if let Some(reason) = reporter.abort_reason() {
            return Err(format!("gave up: {reason}").into());
        }
        leave_if(told_to_stop);
    }
}

fn leave_if(told_to_stop: &AtomicBool) {
    if told_to_stop.load(Ordering::Relaxed) {
        println!("saved and left");
        exit(0);
    }
}

fn suffer(fault: &str, reporter: &Reporter) -> Result<(), Failure> {
    match fault {
        "kill" => {
            // Lets one more report pass, so that the launcher knows the step.
            sleep(Duration::from_millis(200));
            kill_process(getpid(), Signal::KILL)?;
        }
        "stop" => kill_process(getpid(), Signal::STOP)?,
        "hang" => sleep(Duration::from_secs(600)),
        "leave" => exit(0),
        "exit-3" => {
            eprintln!("error: the disk is on fire");
            exit(3)
        }
        "fail" => {
            reporter.fail("cannot read day 4", &[]);
            exit(1)
        }
        "usage" => exit(2),
        other => return Err(format!("unknown fault {other:?}").into()),
    }
    Ok(())
}
