//! What to hand to a scheduler: the batch script, manifests or command that start a job elsewhere.
//!
//! A job is a `streamrec launch` on each host, which watches and restarts the ranks. Only where ranks of several hosts speak
//! MPI, the scheduler, or mpirun, starts the ranks themselves, and the script starts them again after a failure. Either
//! way the ranks get `--resume`, so that whatever starts again goes on.

mod kubernetes;
mod mpirun;
mod slurm;

use thiserror::Error;

/// Where the launchers of several hosts meet at the first.
const MEETING_PORT: u16 = 29_400;

/// A job to be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Name of the job; on Kubernetes in lower case, with `-` for what a DNS label does not take.
    pub name: String,
    /// The launcher and its arguments that run the whole job on one host; what tells it of others is added.
    pub host_command: Vec<String>,
    /// The program and its arguments of each rank, where they speak MPI.
    pub rank_command: Vec<String>,
    /// Whether ranks of several hosts speak MPI.
    pub mpi: bool,
    /// Number of hosts, at least 1.
    pub hosts: usize,
    /// Ranks on each host.
    pub ranks_per_host: usize,
    /// Cores of each rank.
    pub cores_per_rank: usize,
    /// Memory of each host in MiB; the scheduler's default where absent.
    pub memory_mib: Option<u64>,
    /// Time limit in minutes; the scheduler's default where absent.
    pub minutes: Option<u64>,
    /// Seconds that ranks have to save and leave once they are told to stop.
    pub stop_grace_s: u64,
    /// How often a failed job is started again.
    pub max_restarts: u32,
    /// Names of the hosts, for mpirun.
    pub host_names: Vec<String>,
    /// The container's image, for Kubernetes.
    pub image: Option<String>,
    /// The claim of the volume with configurations, data and runs, for Kubernetes.
    pub volume_claim: Option<String>,
}

/// Why a job cannot be described.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubmissionError {
    /// Something that this kind of description needs is not there.
    #[error("{target} needs {what}")]
    Missing {
        /// What is to be written.
        target: &'static str,
        /// What it lacks.
        what: &'static str,
    },
    /// The hosts' names are not as many as the hosts.
    #[error("expected {expected} host names, one for each host, got {got}")]
    HostNames {
        /// Number of hosts.
        expected: usize,
        /// Number of names.
        got: usize,
    },
    /// The name has no character that a label may have.
    #[error("the name {0:?} has no letter or digit to name a Kubernetes object by")]
    Name(String),
}

impl Submission {
    /// The grace, and time for the launcher to end what did not leave and to tell of it.
    fn notice_s(&self) -> u64 {
        self.stop_grace_s + 30
    }

    fn ranks(&self) -> usize {
        self.hosts * self.ranks_per_host
    }

    /// Whether the scheduler starts ranks, not launchers.
    fn starts_ranks(&self) -> bool {
        self.mpi && self.hosts > 1
    }

    /// The launcher of one of several hosts, as a line for a shell that knows its number and where all meet.
    fn launcher_line(&self, node: &str, meeting: &str) -> String {
        format!(
            "{} --nnodes {} --node-rank {node} --rdzv-endpoint {meeting}:{MEETING_PORT}",
            shell_line(&self.host_command),
            self.hosts
        )
    }

    fn cores_per_host(&self) -> usize {
        self.ranks_per_host * self.cores_per_rank
    }

    /// The name as a DNS label (RFC 1123), short enough for what Kubernetes appends.
    fn label(&self) -> Result<String, SubmissionError> {
        const LENGTH_MAX: usize = 40;
        let mut label = String::new();
        for letter in self.name.chars() {
            match letter.to_ascii_lowercase() {
                letter @ ('a'..='z' | '0'..='9') => label.push(letter),
                _ if label.is_empty() || label.ends_with('-') => {}
                _ => label.push('-'),
            }
        }
        label.truncate(LENGTH_MAX);
        let label = label.trim_end_matches('-');
        if label.is_empty() {
            return Err(SubmissionError::Name(self.name.clone()));
        }
        Ok(label.to_owned())
    }
}

/// A command line for a POSIX shell.
fn shell_line(words: &[String]) -> String {
    let quoted = words.iter().map(|word| shell_word(word));
    quoted.collect::<Vec<_>>().join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    pub(super) fn two_hosts() -> Submission {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Submission {
            name: "KuaiRand DCN_v2!".to_owned(),
            host_command: words("streamrec launch --nproc 2 run.toml --resume"),
            rank_command: words("streamrec train run.toml --set name='a' --resume"),
            mpi: false,
            hosts: 2,
            ranks_per_host: 2,
            cores_per_rank: 4,
            memory_mib: Some(32_768),
            minutes: Some(90),
            stop_grace_s: 30,
            max_restarts: 3,
            host_names: vec!["node-a".to_owned(), "node-b".to_owned()],
            image: Some("registry.example/streamrec:1".to_owned()),
            volume_claim: Some("training".to_owned()),
        }
    }

    pub(super) fn two_hosts_over_mpi() -> Submission {
        Submission {
            mpi: true,
            ..two_hosts()
        }
    }

    pub(super) fn one_host() -> Submission {
        Submission {
            hosts: 1,
            host_names: Vec::new(),
            ..two_hosts()
        }
    }

    #[test]
    fn names_become_labels() {
        let label = |name: &str| {
            let name = name.to_owned();
            Submission { name, ..one_host() }.label()
        };
        assert_eq!(label("KuaiRand DCN_v2!").unwrap(), "kuairand-dcn-v2");
        assert_eq!(label("--x--").unwrap(), "x");
        assert_eq!(label(&"ab-".repeat(30)).unwrap().len(), 40);
        assert!(matches!(label("日"), Err(SubmissionError::Name(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_shell_reads_the_words_that_were_quoted(
            words in prop::collection::vec("[^\0\n]{0,12}", 1..5),
        ) {
            let script = format!("printf '%s\\n' {}", shell_line(&words));
            let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            let read = String::from_utf8(output.stdout).unwrap();
            prop_assert_eq!(read, words.join("\n") + "\n");
        }
    }
}
