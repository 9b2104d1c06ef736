//! Why a command failed, and how it says so: one message, causes included.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::checkpoint::CheckpointError;
use crate::comm::CommError;
use crate::config::ConfigError;
use crate::data::Error as DataError;
use crate::model::ModelError;
use crate::monitoring::MonitoringError;
use crate::parallel::{MeshError, PlacementError};
use crate::train::TrainError;
use crate::validation::ModelLoadError;
use crate::validation::behaviour::BehaviourError;
use crate::validation::drift::DriftError;
use crate::validation::expectations::ExpectationError;
use crate::validation::gate::{EvidenceError, GateConfigError};

/// A command that could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// What was asked for makes no sense here; trying again would not help.
    #[error("{0}")]
    Usage(String),
    /// The experiment file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The dataset is missing or wrong.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Files could not be imported.
    #[error(transparent)]
    Import(#[from] crate::data::import::ImportError),
    /// The ranks lost one another.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The ranks do not form the mesh that the experiment asks for.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// An embedding table cannot lie where the experiment asks.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model could not be built or computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device refused.
    #[error(transparent)]
    Kernel(#[from] streamrec_kernels::Error),
    /// A step or an evaluation failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A suite or a table cannot be used.
    #[error(transparent)]
    Expectation(#[from] ExpectationError),
    /// A release gate cannot be used.
    #[error(transparent)]
    Gate(#[from] GateConfigError),
    /// Evidence for a gate cannot be gathered.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// Behavioural tests cannot be run.
    #[error(transparent)]
    Behaviour(#[from] BehaviourError),
    /// Profiles cannot be compared.
    #[error(transparent)]
    Drift(#[from] DriftError),
    /// An artifact is missing or damaged.
    #[error("cannot read the artifact {}", path.display())]
    Artifact {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Box<streamrec_artifact::ArtifactError>,
    },
    /// An artifact cannot be judged.
    #[error(transparent)]
    ModelLoad(#[from] ModelLoadError),
    /// Something cannot be monitored.
    #[error(transparent)]
    Monitoring(#[from] MonitoringError),
    /// The launch environment is contradictory.
    #[error(transparent)]
    Environment(#[from] streamrec_launcher::EnvironmentError),
    /// The launcher could not be reached.
    #[error(transparent)]
    Control(#[from] streamrec_launcher::ControlError),
    /// The ranks did not meet.
    #[error(transparent)]
    Rendezvous(#[from] streamrec_launcher::RendezvousError),
    /// Another rank failed first.
    #[error("rank {rank} failed: {reason}")]
    OtherRank {
        /// That rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// Two commands would write the same folder.
    #[error(
        "another command is writing {}; wait until it is done, or choose another --out",
        path.display()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The user asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// A file of the run could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else, with its cause.
    #[error("{what}")]
    Other {
        /// What failed.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl RunError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(super) fn other<E>(what: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let what = what.into();
        move |source| Self::Other {
            what,
            source: source.into(),
        }
    }

    /// The message with its causes, each once.
    pub fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        message
    }

    /// 2 for what a restart cannot mend, 130 for an interruption as shells have it, else 1.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Environment(_) => 2,
            Self::Interrupted => 130,
            Self::Data(DataError::Io { .. }) => 1,
            Self::Data(_) | Self::Import(_) => 2,
            Self::Expectation(ExpectationError::Spill(_)) => 1,
            Self::Expectation(_) | Self::Gate(_) | Self::Drift(_) => 2,
            Self::Artifact { .. } | Self::ModelLoad(_) => 2,
            Self::Evidence(EvidenceError::Data(_) | EvidenceError::Column { .. }) => 2,
            Self::Monitoring(MonitoringError::Table { .. } | MonitoringError::Settings { .. }) => 2,
            Self::Monitoring(MonitoringError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                2
            }
            Self::Behaviour(
                BehaviourError::File { .. }
                | BehaviourError::Suite { .. }
                | BehaviourError::Test { .. },
            ) => 2,
            Self::Checkpoint(
                CheckpointError::Damaged { .. }
                | CheckpointError::Mismatch { .. }
                | CheckpointError::Missing { .. },
            ) => 2,
            Self::Mesh(MeshError::Product { .. }) | Self::Placement(_) => 2,
            Self::Train(TrainError::Invariant(_)) => 2,
            Self::Model(error) | Self::Train(TrainError::Model(error)) => match error {
                ModelError::Build { .. }
                | ModelError::Graph { .. }
                | ModelError::Partition { .. } => 2,
                _ => 1,
            },
            _ => 1,
        }
    }

    /// Prints the message and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.message());
        ExitCode::from(self.exit_code())
    }
}
