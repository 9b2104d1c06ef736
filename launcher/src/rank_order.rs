//! What to start as a rank, on this host or, as a line of JSON, on another.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::cores::CorePlan;
use crate::job::THREADS_VARIABLE;

/// One rank's program and all that its host does not know by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RankOrder {
    pub program: PathBuf,
    #[serde(with = "texts")]
    pub args: Vec<OsString>,
    /// Variables that are added to those of the host's launcher.
    #[serde(with = "pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// The folder to start in; that of the host's launcher where absent.
    pub folder: Option<PathBuf>,
    /// Its number on its host, by which it gets its cores.
    pub local_rank: usize,
}

impl RankOrder {
    /// Starts it on its cores, in a process group of its own.
    pub(crate) fn spawn(&self, cores: &CorePlan, stderr: Stdio) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        if std::env::var_os(THREADS_VARIABLE).is_none() {
            command.env(THREADS_VARIABLE, cores.threads.to_string());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        cores.on_cores_of(self.local_rank, || command.spawn())
    }
}

/// Arguments as texts; one that is not Unicode has no line, and is an error.
mod texts {
    use std::ffi::OsString;
    use std::path::Path;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(words: &[OsString], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(words.iter().map(Path::new))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<OsString>, D::Error> {
        let words = Vec::<String>::deserialize(from)?;
        Ok(words.into_iter().map(OsString::from).collect())
    }
}

/// Variables as pairs of texts.
mod pairs {
    use std::ffi::OsString;
    use std::path::Path;

    use serde::{Deserialize, Deserializer, Serializer};

    type Pair = (OsString, OsString);

    pub fn serialize<S: Serializer>(pairs: &[Pair], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(pairs.iter().map(|(a, b)| (Path::new(a), Path::new(b))))
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Pair>, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(from)?;
        Ok(pairs
            .into_iter()
            .map(|(a, b)| (a.into(), b.into()))
            .collect())
    }
}
