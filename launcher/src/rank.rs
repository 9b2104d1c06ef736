//! A rank as its launcher sees it, wherever it runs.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cores::CorePlan;
use crate::diagnosis::Exit;
use crate::job::FirstRankOutput;
use crate::nodes::{Gathering, RemoteRank};
use crate::output::{Capture, Style, open_log};
use crate::rank_order::RankOrder;
use crate::rank_process::RankProcess;

/// A rank and what it started. Dropping it kills all that, if it still lives.
pub(crate) struct Rank {
    /// The number of its host.
    pub node: usize,
    pub log: PathBuf,
    pub output: Capture,
    pub started: Instant,
    pub exit: Option<(Exit, Instant)>,
    home: Home,
}

enum Home {
    Here(RankProcess),
    There(RemoteRank),
}

impl Rank {
    /// Starts a rank on this host.
    pub(crate) fn here(
        rank: usize,
        order: &RankOrder,
        cores: &CorePlan,
        log_dir: &Path,
        first: FirstRankOutput,
    ) -> io::Result<Self> {
        let (log, mut file) = open_log(log_dir, rank)?;
        let direct = rank == 0 && first == FirstRankOutput::Direct;
        let stderr = if direct && io::stderr().is_terminal() {
            writeln!(
                file,
                "[launcher] standard error went to the terminal; this file has standard output only"
            )?;
            Stdio::inherit()
        } else {
            Stdio::piped()
        };
        let mut process = RankProcess::spawn(order, cores, stderr)?;
        let style = if direct {
            Style::Raw
        } else {
            Style::of_rank(rank)
        };
        let output = process.capture(file, &style)?;
        Ok(Self::new(0, log, output, Home::Here(process)))
    }

    /// Has the launcher of another host start a rank. A launcher that does not answer is no error: the rank is lost.
    pub(crate) fn there(
        rank: usize,
        order: RankOrder,
        hosts: &Gathering<'_>,
        node: usize,
        log_dir: &Path,
    ) -> io::Result<Self> {
        let (log, file) = open_log(log_dir, rank)?;
        let (output, feed) = Capture::fed(file, &Style::of_rank(rank));
        let remote = RemoteRank::start(hosts, node, order, feed)?;
        Ok(Self::new(node, log, output, Home::There(remote)))
    }

    fn new(node: usize, log: PathBuf, output: Capture, home: Home) -> Self {
        Self {
            node,
            log,
            output,
            started: Instant::now(),
            exit: None,
            home,
        }
    }

    /// Notices whether the rank has ended.
    pub(crate) fn look(&mut self) {
        if self.exit.is_none() {
            let exit = match &mut self.home {
                Home::Here(process) => process.exit(),
                Home::There(remote) => remote.exit(),
            };
            self.exit = exit.map(|exit| (exit, Instant::now()));
        }
    }

    /// Whether it ended other than with code 0, or because it was asked to.
    pub(crate) fn has_failed(&self) -> bool {
        self.exit
            .is_some_and(|(exit, _)| exit != Exit::Code(0) && exit.stopped_by().is_none())
    }

    /// The signal that asked it to save and leave, when it has done so.
    pub(crate) fn stopped_by(&self) -> Option<i32> {
        self.exit.and_then(|(exit, _)| exit.stopped_by())
    }

    /// Signals the rank and all that it started, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            match &self.home {
                Home::Here(process) => process.signal(signal),
                Home::There(remote) => remote.signal(signal),
            }
        }
    }

    /// Notes that the launcher of its host is gone, and the rank with it.
    pub(crate) fn lose(&mut self) {
        if let Home::There(remote) = &mut self.home {
            remote.lose();
        }
    }

    /// Ends what a failed rank may have left behind, so that its output ends too.
    pub(crate) fn sweep(&mut self) {
        if let Home::Here(process) = &mut self.home {
            process.sweep();
        }
        self.output.finish(Duration::from_secs(1));
    }
}
