use streamrec_kernels::cuda::DeviceError;

use crate::model::ModelError;
use crate::train::TrainError;
use crate::train::device::difference::Difference;

/// Why a device is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfCheckError {
    /// It computes something else than the CPU.
    #[error("{0}")]
    Differs(Difference),
    /// It failed.
    #[error(transparent)]
    Device(#[from] TrainError),
    /// The model cannot be trained on a CPU either.
    #[error("the model that a device is checked with cannot be trained on the CPU")]
    Cpu(#[source] TrainError),
}

impl From<Difference> for SelfCheckError {
    fn from(difference: Difference) -> Self {
        Self::Differs(difference)
    }
}

impl From<DeviceError> for SelfCheckError {
    fn from(error: DeviceError) -> Self {
        Self::Device(ModelError::from(error).into())
    }
}
