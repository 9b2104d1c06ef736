//! Why an attempt failed: one rank, its fault, and what every rank was doing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::Collective;
use crate::signals::name_of;

/// What a rank did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It exited with this code.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
    /// It exited with code 0 while others waited for it.
    LeftEarly,
    /// It lives, but sent no report for so long.
    Silent(Duration),
    /// It reported its failure, but did not exit for so long.
    Lingers(Duration),
    /// It reports, but made no progress for so long, outside any collective.
    Stuck(Duration),
    /// Others wait for it, and it never reported.
    NeverReported,
    /// It lives, but another rank gave up on it.
    GivenUp {
        /// The rank that gave up.
        by: usize,
    },
    /// All ranks wait in collectives, for each other, for so long.
    Deadlock(Duration),
    /// The launcher of its host, which has this number, is gone.
    LostHost(usize),
}

impl Fault {
    /// The exit code that passes this on: the rank's own, 128 + signal, or 1.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Self::Exited(code) => *code,
            Self::Killed(signal) => 128 + signal,
            _ => 1,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(2) => write!(
                f,
                "exited with code 2: its configuration or command line is wrong"
            ),
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(9) => write!(
                f,
                "was killed by SIGKILL (out of memory? the kernel's log tells)"
            ),
            Self::Killed(signal) => write!(f, "was killed by {}", name_of(*signal)),
            Self::LeftEarly => write!(f, "exited with code 0 while others waited for it"),
            Self::Silent(time) => write!(
                f,
                "has stopped: it lives, but sent no report for {time:.1?}"
            ),
            Self::Lingers(time) => write!(f, "failed, but did not exit for {time:.1?}"),
            Self::Stuck(time) => write!(
                f,
                "is stuck: no progress for {time:.1?}, outside any collective"
            ),
            Self::NeverReported => write!(f, "never reported, and others wait for it"),
            Self::GivenUp { by } => write!(f, "did not answer: rank {by} gave up on it"),
            Self::Deadlock(time) => write!(
                f,
                "waits in a collective as all ranks do, for {time:.1?}: a deadlock"
            ),
            Self::LostHost(node) => {
                write!(
                    f,
                    "is lost with its host: the launcher of node {node} is gone"
                )
            }
        }
    }
}

/// What was last known of a rank: its last report, at most a heartbeat before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankStatus {
    /// Its last global step; `None` when it never reported.
    pub step: Option<u64>,
    /// Its last phase; empty when it never reported.
    pub phase: String,
    /// The collective it was in.
    pub collective: Option<Collective>,
    /// The ranks it waited for.
    pub waiting_for: Vec<usize>,
    /// Its exit code or signal, when it had ended.
    pub exit: Option<Fault>,
}

impl fmt::Display for RankStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {step}, phase {}", self.phase)?,
            None => write!(f, "no report")?,
        }
        if let Some(Collective { name, sequence }) = &self.collective {
            write!(f, ", in {name} #{sequence}")?;
        }
        if !self.waiting_for.is_empty() {
            write!(f, ", waiting for {:?}", self.waiting_for)?;
        }
        match &self.exit {
            Some(Fault::Exited(code)) => write!(f, ", exited with code {code}"),
            Some(Fault::Killed(signal)) => write!(f, ", killed by {}", name_of(*signal)),
            Some(Fault::LostHost(_)) => write!(f, ", lost with its host"),
            _ => Ok(()),
        }
    }
}

/// Why an attempt failed. Displays as one message of several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The attempt, from 0.
    pub attempt: u32,
    /// The rank to blame.
    pub rank: usize,
    /// What it did.
    pub fault: Fault,
    /// What it said itself about its failure.
    pub message: Option<String>,
    /// What every rank was doing, by rank.
    pub ranks: Vec<RankStatus>,
    /// The log file of the rank to blame.
    pub log: PathBuf,
    /// The last lines it wrote, standard error first.
    pub last_lines: Vec<String>,
}

impl Cause {
    /// Whether a restart cannot help: the program refused its configuration or command line (code 2).
    pub fn is_configuration(&self) -> bool {
        self.fault == Fault::Exited(2)
    }

    /// The exit code that passes this cause on: the rank's own, 128 + signal, or 1.
    pub fn exit_code(&self) -> i32 {
        self.fault.exit_code()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} {}", self.rank, self.fault)?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        for (rank, status) in self.ranks.iter().enumerate() {
            let mark = if rank == self.rank {
                " (the cause)"
            } else {
                ""
            };
            write!(f, "\n  rank {rank}: {status}{mark}")?;
        }
        write!(f, "\n  log: {}", self.log.display())?;
        for line in &self.last_lines {
            write!(f, "\n  | {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_rank_its_fault_and_what_all_were_doing() {
        let waiting = RankStatus {
            step: Some(41),
            phase: "backward".into(),
            collective: Some(Collective {
                name: "all_reduce".into(),
                sequence: 17,
            }),
            waiting_for: vec![1],
            exit: None,
        };
        let dead = RankStatus {
            step: Some(40),
            phase: "read".into(),
            collective: None,
            waiting_for: vec![],
            exit: Some(Fault::Exited(3)),
        };
        let cause = Cause {
            attempt: 0,
            rank: 1,
            fault: Fault::Exited(3),
            message: Some("cannot read day 4".into()),
            ranks: vec![waiting, dead],
            log: "logs/attempt-0/rank-1.log".into(),
            last_lines: vec!["error: cannot read day 4".into()],
        };
        assert_eq!(
            cause.to_string(),
            "rank 1 exited with code 3: cannot read day 4\
             \n  rank 0: step 41, phase backward, in all_reduce #17, waiting for [1]\
             \n  rank 1: step 40, phase read, exited with code 3 (the cause)\
             \n  log: logs/attempt-0/rank-1.log\
             \n  | error: cannot read day 4"
        );
    }
}
