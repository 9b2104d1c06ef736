use streamrec_artifact::GraphError;
use streamrec_kernels::cuda::DeviceError;

use crate::comm::CommError;

/// Why a model could not be built, computed or updated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A model's settings do not fit the features.
    #[error("the model `{kind}` cannot be built from these features: {problem}")]
    Build {
        /// The model's kind.
        kind: &'static str,
        /// What was expected, what came, and what to change.
        problem: String,
    },
    /// The graph contradicts itself or the schema.
    #[error("the model's graph is not valid")]
    Graph(#[source] Box<GraphError>),
    /// An operation of a node refused its operands.
    #[error("node `{node}` failed in its {pass} pass")]
    Node {
        /// The node.
        node: String,
        /// `forward` or `backward`.
        pass: &'static str,
        /// The operation's own reason.
        #[source]
        source: Box<streamrec_kernels::Error>,
    },
    /// An operation outside the nodes refused its operands.
    #[error("{what} failed")]
    Kernel {
        /// What was computed.
        what: &'static str,
        /// The operation's own reason.
        #[source]
        source: Box<streamrec_kernels::Error>,
    },
    /// A batch does not fit what the network was planned for.
    #[error("a batch does not fit the network: {what} is {got}, expected {expected}")]
    Batch {
        /// What does not fit.
        what: &'static str,
        /// What the network takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// A gradient was asked for while its bucket is being reduced, or after that failed.
    #[error(
        "the gradient of `{parameter}` is not here: its bucket is being reduced, or a reduction \
         failed; finish the buckets first"
    )]
    GradientInFlight {
        /// The parameter.
        parameter: String,
    },
    /// Names or shapes of parameters do not fit.
    #[error("parameter `{parameter}`: {problem}")]
    Parameter {
        /// The parameter.
        parameter: String,
        /// What was expected, and what came.
        problem: String,
    },
    /// A layer cannot be shared by a tensor-parallel group as asked.
    #[error("tensor parallelism, layer `{node}`: {problem}")]
    Partition {
        /// The layer.
        node: String,
        /// What was expected, what came, and what to change.
        problem: String,
    },
    /// The device could not do what a pass asked for.
    #[error("the device failed")]
    Device(#[from] DeviceError),
    /// Ranks could not communicate.
    #[error("ranks could not exchange values")]
    Comm(#[from] CommError),
}

impl From<GraphError> for ModelError {
    fn from(error: GraphError) -> Self {
        Self::Graph(Box::new(error))
    }
}

impl ModelError {
    /// Wraps an error of an operation that belongs to no node.
    pub(crate) fn kernel(what: &'static str) -> impl FnOnce(streamrec_kernels::Error) -> Self {
        move |source| Self::Kernel {
            what,
            source: Box::new(source),
        }
    }
}
