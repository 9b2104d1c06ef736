//! How ranks tell the launcher that they live, and how far they are.
//!
//! The launcher listens on loopback and passes `STREAMREC_CONTROL=addr:port` to its ranks. Each rank's [`Reporter`]
//! connects and sends one JSON line every half second; the launcher's board keeps the latest line of each rank.
//! The other way, the launcher says at most one thing: that the attempt is over and why. The lines are specified in
//! `docs/formats/control.md`.

pub(crate) mod board;
mod reporter;

use std::io::{self, BufRead, Read};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use reporter::{Channel, LostLauncher, Reporter};

/// Variable that names the launcher's control address.
pub const CONTROL_VARIABLE: &str = "STREAMREC_CONTROL";
/// Variable that holds the time between two reports, in milliseconds.
pub(crate) const HEARTBEAT_VARIABLE: &str = "STREAMREC_HEARTBEAT_MS";

/// Longest line, in bytes: a failure message and a list of many ranks fit.
const LINE_BYTES_MAX: u64 = 1 << 18;
/// Longest failure message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// Why a rank cannot report.
#[derive(Debug, Error)]
pub enum ControlError {
    /// A control variable is malformed.
    #[error("{name}={value:?} is not {expected}; unset it to run without the launcher's watch")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The launcher does not answer.
    #[error(
        "rank {rank} cannot reach its launcher at {address}: it has died, or {CONTROL_VARIABLE} is stale"
    )]
    Connect {
        /// The rank.
        rank: usize,
        /// The launcher's control address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A collective operation that a rank is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collective {
    /// Its name, such as `all_reduce`.
    pub name: String,
    /// Its number in the order of the rank's collectives.
    pub sequence: u64,
}

/// One line from a rank to its launcher: all there is to know about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Guards against lines from another job.
    pub run_id: String,
    pub rank: usize,
    pub pid: u32,
    /// Guards against late lines from an earlier attempt.
    pub restart_count: u32,
    pub step: u64,
    pub phase: String,
    /// Grows whenever the rank gets on; its value means nothing else.
    pub progress: u64,
    pub collective: Option<Collective>,
    /// Ranks that have not come to the collective.
    pub waiting_for: Vec<usize>,
    /// Set on the last line only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
}

/// How a rank says goodbye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    Finished,
    Failed {
        message: String,
        /// Ranks whose loss made this one fail: it is then a victim, not the cause.
        lost: Vec<usize>,
    },
}

/// The line from the launcher to a rank.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Why the attempt is over.
    pub abort: String,
}

/// A value as one line of JSON.
pub(crate) fn line_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The next line; `None` at the end of the stream. Longer lines than the limit are errors.
pub(crate) fn next_line<T: for<'a> Deserialize<'a>>(
    stream: &mut impl BufRead,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a control line longer than {LINE_BYTES_MAX} bytes"),
        )),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_the_documented_line() {
        let report = Report {
            run_id: "daily".into(),
            rank: 1,
            pid: 812,
            restart_count: 0,
            step: 41,
            phase: "backward".into(),
            progress: 97,
            collective: Some(Collective {
                name: "all_reduce".into(),
                sequence: 17,
            }),
            waiting_for: vec![0],
            ending: None,
        };
        let line = concat!(
            r#"{"run_id":"daily","rank":1,"pid":812,"restart_count":0,"step":41,"phase":"backward","progress":97,"#,
            r#""collective":{"name":"all_reduce","sequence":17},"waiting_for":[0]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line_of(&report).unwrap()).unwrap(), line);
        assert_eq!(
            next_line::<Report>(&mut line.as_bytes()).unwrap(),
            Some(report)
        );
    }

    #[test]
    fn lines_that_are_cut_too_long_or_not_json_are_errors() {
        assert!(next_line::<Order>(&mut "".as_bytes()).unwrap().is_none());
        assert!(next_line::<Order>(&mut r#"{"abort":"x"}"#.as_bytes()).is_err());
        assert!(next_line::<Order>(&mut "nonsense\n".as_bytes()).is_err());
        let long = vec![b'x'; LINE_BYTES_MAX as usize + 1];
        assert!(
            next_line::<Order>(&mut long.as_slice())
                .unwrap_err()
                .to_string()
                .contains("longer")
        );
    }
}
