//! What to launch: a program, so many ranks, and how patient to be with them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Variable that tells a rank how many threads it may use: its share of the cores.
pub const THREADS_VARIABLE: &str = "STREAMREC_THREADS";

/// One job on this host.
#[derive(Debug, Clone)]
pub struct Job {
    /// The program of every rank.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment of every rank. The torchrun variables always come from the launcher.
    pub env: Vec<(OsString, OsString)>,
    /// Number of ranks, at least 1.
    pub nproc: usize,
    /// Folder of the logs: `attempt-K/rank-N.log` holds both streams of rank N, raw. Files are appended to, so logs
    /// of an earlier launch into the same folder stay.
    pub log_dir: PathBuf,
    /// Name of the job; one is made from process id and time when absent.
    pub run_id: Option<String>,
    /// How often all ranks are started again after a failure.
    pub max_restarts: u32,
    /// Whether each rank is pinned to its own share of the allowed cores. Has no effect when there are fewer cores
    /// than ranks.
    pub pin_cores: bool,
    /// What becomes of rank 0's output.
    pub first_rank: FirstRankOutput,
    /// How long to wait for what.
    pub timing: Timing,
}

impl Job {
    /// A job without arguments or restarts, pinned to cores, with the default [`Timing`].
    pub fn new(program: impl Into<PathBuf>, nproc: usize, log_dir: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            nproc,
            log_dir: log_dir.into(),
            run_id: None,
            max_restarts: 0,
            pin_cores: true,
            first_rank: FirstRankOutput::Prefixed,
            timing: Timing::default(),
        }
    }
}

/// What becomes of rank 0's output; that of other ranks is always prefixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirstRankOutput {
    /// Each line is prefixed with `[rank 0] `, as for other ranks.
    #[default]
    Prefixed,
    /// For a person who watches: standard output passes through byte by byte, and so does standard error, except
    /// that rank 0 inherits it when it is a terminal, so that a progress bar finds one. The terminal's text is then
    /// not in the log file, which says so.
    Direct,
}

/// How long the launcher waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time between two reports of a rank (500 ms).
    pub heartbeat: Duration,
    /// A rank that reported before and is silent for so long has stopped (5 s).
    pub silent_after: Duration,
    /// A rank that makes no progress for so long is stuck (60 s).
    pub stuck_after: Duration,
    /// Time between SIGTERM and SIGKILL for the other ranks after a failure (10 s).
    pub failure_grace: Duration,
    /// Time for ranks to save and leave after a SIGTERM or SIGINT to the launcher (30 s).
    pub stop_grace: Duration,
    /// Pause before the first restart (1 s); it doubles with each further one, up to 32 times.
    pub backoff: Duration,
    /// Time between two looks at the ranks (50 ms).
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            silent_after: Duration::from_secs(5),
            stuck_after: Duration::from_secs(60),
            failure_grace: Duration::from_secs(10),
            stop_grace: Duration::from_secs(30),
            backoff: Duration::from_secs(1),
            poll: Duration::from_millis(50),
        }
    }
}
