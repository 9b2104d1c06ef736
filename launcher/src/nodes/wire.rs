//! What launchers and agents say to one another: lines of JSON, as in `docs/formats/control.md`.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::diagnosis::Exit;
use crate::rank_order::RankOrder;

/// The version of this language.
pub(super) const VERSION: u32 = 2;

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

/// The first line to a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Errand {
    pub token: String,
    pub task: Task,
}

/// What a shell is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// A line for `sh -c`, from an agent of mpirun, which says no more.
    Command(String),
    /// A rank, from node 0.
    Rank(RankOrder),
}

/// Node 0's lines after that: a signal for the rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignalRank {
    pub signal: i32,
}

/// A shell's lines back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It runs.
    Started,
    /// A line of standard output, or a piece of a long one.
    Out(String),
    /// The same of standard error.
    Err(String),
    /// It ended like this; the last line.
    Exit(Exit),
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
    use proptest::prelude::*;

    use super::*;
    use crate::control::{line_of, next_line};

    #[test]
    fn tokens_differ_and_are_compared_in_whole() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(one.len(), 32);
        assert!(same_token(&one, &one) && !same_token(&one, &other));
        assert!(!same_token(&one, &one[..31]) && !same_token(&one, ""));
    }

    fn order() -> RankOrder {
        RankOrder {
            program: "/opt/streamrec".into(),
            args: vec!["train".into(), "a.toml".into()],
            env: vec![("RANK".into(), "2".into())],
            folder: Some("/work".into()),
            local_rank: 0,
        }
    }

    #[test]
    fn words_are_the_documented_lines() {
        let text = |word| serde_json::to_string(&word).unwrap();
        assert_eq!(text(Word::Beat), r#""beat""#);
        assert_eq!(text(Word::Stop(15)), r#"{"stop":15}"#);
        assert_eq!(text(Word::Over(0)), r#"{"over":0}"#);
        let text = |outcome| serde_json::to_string(&outcome).unwrap();
        assert_eq!(text(Outcome::Started), r#""started""#);
        assert_eq!(text(Outcome::Out("a\n".into())), r#"{"out":"a\n"}"#);
        assert_eq!(text(Outcome::Exit(Exit::Code(0))), r#"{"exit":{"code":0}}"#);
        assert_eq!(
            text(Outcome::Exit(Exit::Signal(9))),
            r#"{"exit":{"signal":9}}"#
        );
        let errand = Errand {
            token: "t".into(),
            task: Task::Rank(order()),
        };
        assert_eq!(
            serde_json::to_string(&errand).unwrap(),
            concat!(
                r#"{"token":"t","task":{"rank":{"program":"/opt/streamrec","args":["train","a.toml"],"#,
                r#""env":[["RANK","2"]],"folder":"/work","local_rank":0}}}"#
            )
        );
    }

    #[test]
    fn an_order_that_is_not_unicode_has_no_line() {
        use std::os::unix::ffi::OsStringExt;
        let odd = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
        let orders = [
            RankOrder {
                args: vec![odd.clone()],
                ..order()
            },
            RankOrder {
                env: vec![("A".into(), odd.clone())],
                ..order()
            },
            RankOrder {
                program: odd.into(),
                ..order()
            },
        ];
        for order in orders {
            assert!(line_of(&Task::Rank(order)).is_err());
        }
    }

    proptest! {
        #[test]
        fn an_errand_survives_the_wire(
            token in "\\PC{0,40}",
            program in "[^\0]{0,20}",
            words in prop::collection::vec("[^\0]{0,20}", 0..5),
            variables in prop::collection::vec(("[^\0]{0,9}", "[^\0]{0,9}"), 0..5),
            folder in prop::option::of("[^\0]{0,20}"),
            local_rank: u32,
        ) {
            let order = RankOrder {
                program: program.clone().into(),
                args: words.into_iter().map(Into::into).collect(),
                env: variables.into_iter().map(|(a, b)| (a.into(), b.into())).collect(),
                folder: folder.map(Into::into),
                local_rank: local_rank as usize,
            };
            for task in [Task::Rank(order), Task::Command(program)] {
                let errand = Errand { token: token.clone(), task };
                let line = line_of(&errand).unwrap();
                prop_assert_eq!(next_line(&mut line.as_slice()).unwrap(), Some(errand));
            }
        }

        #[test]
        fn bytes_of_others_are_refused_or_mean_what_they_say(
            bytes: Vec<u8>,
            edit in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let errand = Errand { token: "t".into(), task: Task::Rank(order()) };
            let mut edited = line_of(&errand).unwrap();
            let place = edit.index(edited.len());
            edited[place] = byte;
            for bytes in [bytes, edited] {
                says_what_it_means::<Errand>(&bytes)?;
                says_what_it_means::<SignalRank>(&bytes)?;
                says_what_it_means::<Outcome>(&bytes)?;
                says_what_it_means::<Join>(&bytes)?;
            }
        }
    }

    /// What is read from bytes is read again from its own line.
    fn says_what_it_means<T>(mut bytes: &[u8]) -> Result<(), TestCaseError>
    where
        T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug,
    {
        if let Ok(Some(found)) = next_line::<T>(&mut bytes) {
            let line = line_of(&found).unwrap();
            prop_assert_eq!(next_line::<T>(&mut line.as_slice()).unwrap(), Some(found));
        }
        Ok(())
    }
}
