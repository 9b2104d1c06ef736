//! What launchers and agents say to one another: lines of JSON, as in `docs/formats/control.md`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The version of this language.
pub(super) const VERSION: u32 = 1;

/// A launcher's first line to node 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Join {
    pub version: u32,
    pub node: usize,
    pub nodes: usize,
    /// Ranks to start on its host.
    pub ranks: usize,
    /// Where its shell listens.
    pub shell: SocketAddr,
}

/// Node 0's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Welcome {
        token: String,
    },
    Refused {
        reason: String,
    },
    /// That node has a launcher; it may be one that is about to be missed.
    Taken,
}

/// Lines after that, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// I am here.
    Beat,
    /// To node 0: this launcher was told by a signal to stop.
    Stop(i32),
    /// From node 0: the job is over, with this exit code.
    Over(i32),
}

/// Where agents find the launchers: the value of [`NODES_VARIABLE`](super::NODES_VARIABLE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory {
    pub token: String,
    /// Shells by the name that mpirun has for their host.
    pub shells: BTreeMap<String, SocketAddr>,
}

/// An agent's only line to a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Command {
    pub token: String,
    /// For `sh -c`.
    pub line: String,
}

/// A shell's lines to an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// A line of standard output.
    Out(String),
    /// A line of standard error.
    Err(String),
    /// The command ended, with this exit code; the last line.
    Exit(i32),
    /// It was not run.
    Refused(String),
}

/// Something that nobody can guess, of 32 hexadecimal digits.
pub(super) fn new_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Compares tokens in a time that tells nothing of where they differ.
pub(super) fn same_token(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes());
    one.len() == other.len() && differ.fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_compared_in_whole() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(one.len(), 32);
        assert!(same_token(&one, &one) && !same_token(&one, &other));
        assert!(!same_token(&one, &one[..31]) && !same_token(&one, ""));
    }

    #[test]
    fn words_are_the_documented_lines() {
        let text = |word| serde_json::to_string(&word).unwrap();
        assert_eq!(text(Word::Beat), r#""beat""#);
        assert_eq!(text(Word::Stop(15)), r#"{"stop":15}"#);
        assert_eq!(text(Word::Over(0)), r#"{"over":0}"#);
    }
}
