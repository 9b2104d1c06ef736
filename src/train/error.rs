//! Why training stopped.

use std::fmt;

use crate::comm::CommError;
use crate::data::Error as DataError;
use crate::model::ModelError;
use crate::optim::OptimError;
use crate::parallel::InvariantRanksError;

/// What the devices of a job were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceWork {
    /// A step, by its number.
    Step(u64),
    /// Predictions.
    Evaluation {
        /// The last step before.
        after: u64,
    },
}

impl fmt::Display for DeviceWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(step) => write!(f, "step {step}"),
            Self::Evaluation { after } => write!(f, "the evaluation after step {after}"),
        }
    }
}

/// A step or an evaluation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model could not be computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The parameters could not be updated.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// The ranks cannot add up in the tree that the settings ask for.
    #[error(transparent)]
    Invariant(#[from] InvariantRanksError),
    /// The ranks lost one another.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// A batch could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Raw rows are not those that the features were fitted on.
    #[error("raw rows do not fit the features")]
    Encode(#[source] streamrec_artifact::RawBatchError),
    /// The settings ask for what training on a device does not do yet.
    #[error(
        "{problem}: training on a GPU does no more yet; change it, or set `train.device = \"cpu\"`"
    )]
    Device {
        /// What was set, and what is expected.
        problem: String,
    },
    /// Ranks are gone for whom the devices of the others wait.
    #[error(
        "{what} cannot be completed in {work} on the devices; the last steps that ranks reported are {steps:?}"
    )]
    Collective {
        /// What the devices came to last.
        what: &'static str,
        /// What this rank's device worked on.
        work: DeviceWork,
        /// Of each rank.
        steps: Vec<u64>,
        /// Who is missing.
        #[source]
        source: Box<CommError>,
    },
    /// All ranks are there, and what their devices exchange does not end.
    #[error(
        "{what} did not end within {waited_s:.1} s in {work} on the devices, though no rank is missing (the last steps \
         that they reported are {steps:?}); look at the links between the GPUs, set NCCL_DEBUG=INFO to hear more, or raise \
         `parallel.timeout_s`"
    )]
    Stuck {
        /// What the devices came to last.
        what: &'static str,
        /// What this rank's device worked on.
        work: DeviceWork,
        /// Of each rank.
        steps: Vec<u64>,
        /// How long.
        waited_s: f64,
    },
    /// The loss left the numbers.
    #[error(
        "the loss of step {step} is {loss}; lower the learning rate, or set `optimizer.clip_norm`"
    )]
    NotFinite {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// No factor on the loss is small enough for fp16.
    #[error(
        "gradients of step {step} are not finite in fp16 even without a factor on the loss, which is {loss}: numbers \
         beyond 65,504; use `train.precision = \"bf16\"`, or lower the learning rate"
    )]
    LossScale {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
}

impl TrainError {
    /// The communication error behind it, where there is one.
    pub fn comm(&self) -> Option<&CommError> {
        match self {
            Self::Comm(error) | Self::Model(ModelError::Comm(error)) => Some(error),
            Self::Collective { source, .. } => Some(source),
            _ => None,
        }
    }
}
