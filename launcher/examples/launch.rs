//! A minimal launcher: `launch LOG_DIR NPROC PROGRAM ARGS...` runs the program as NPROC ranks on this host.
//!
//! With `HOSTS="NODES NODE ENDPOINT ADDRESS"` in its environment it is the launcher of one host of several; RESTARTS is
//! how often a failed job is started again.

use std::error::Error;
use std::process::exit;
use std::time::Duration;

use streamrec_launcher::nodes::{Head, Membership, serve_node};
use streamrec_launcher::{FirstRankOutput, Job, LaunchError, Timing, launch, launch_hosts};

/// How long launchers wait for one another.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [log_dir, nproc, program, args @ ..] = args.as_slice() else {
        eprintln!("usage: launch LOG_DIR NPROC PROGRAM ARGS...");
        exit(2);
    };
    let Some(nproc) = nproc.to_str().and_then(|nproc| nproc.parse().ok()) else {
        eprintln!("NPROC={nproc:?} is not a number");
        exit(2);
    };
    let mut job = Job::new(program, nproc, log_dir);
    job.args = args.to_vec();
    job.timing = Timing {
        stop_grace: Duration::from_secs(3),
        ..Timing::default()
    };
    if std::env::var_os("DIRECT").is_some() {
        job.first_rank = FirstRankOutput::Direct;
    }
    let restarts = std::env::var("RESTARTS").ok();
    job.max_restarts = restarts.map_or(0, |count| count.parse().expect("a number"));
    match run(&job) {
        Ok(code) => exit(code),
        Err(error) => {
            eprintln!("{error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprintln!("caused by: {error}");
                source = error.source();
            }
            exit(error.exit_code());
        }
    }
}

fn run(job: &Job) -> Result<i32, LaunchError> {
    let Ok(hosts) = std::env::var("HOSTS") else {
        return launch(job).map(|report| report.exit_code());
    };
    let [nodes, node, endpoint, address] = hosts.split(' ').collect::<Vec<_>>()[..] else {
        panic!("HOSTS={hosts:?} is not \"NODES NODE ENDPOINT ADDRESS\"");
    };
    let [nodes, node] = [nodes, node].map(|number| number.parse().expect("a number"));
    let endpoint = endpoint.to_owned();
    if node == 0 {
        let head = Head {
            nodes,
            endpoint,
            ranks: job.nproc,
            patience: PATIENCE,
        };
        return launch_hosts(job, &head).map(|report| report.exit_code());
    }
    let member = Membership {
        node,
        nodes,
        endpoint,
        ranks: job.nproc,
        address: Some(address.parse().expect("an address")),
        patience: PATIENCE,
        pin_cores: true,
    };
    Ok(serve_node(&member)?)
}
