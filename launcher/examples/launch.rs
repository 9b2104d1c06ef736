//! A minimal launcher: `launch LOG_DIR NPROC PROGRAM ARGS...` runs the program as NPROC ranks on this host.

use std::error::Error;
use std::process::exit;
use std::time::Duration;

use streamrec_launcher::{FirstRankOutput, Job, Timing, launch};

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
    match launch(&job) {
        Ok(report) => exit(report.exit_code()),
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
