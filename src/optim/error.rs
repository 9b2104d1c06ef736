use crate::model::ModelError;

/// Why parameters could not be updated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A group's pattern names nothing.
    #[error(
        "`optimizer.group.pattern`: no parameter matches `{pattern}`; parameters have names such as \
         {examples}"
    )]
    Group {
        /// The pattern.
        pattern: String,
        /// Some names.
        examples: String,
    },
    /// Gradients are no longer numbers. Nothing has been updated.
    #[error(
        "the norm of the dense gradients is {norm} in step {step}, expected a finite one; lower the learning rate, or look \
         for values that are not finite in the data"
    )]
    NotFinite {
        /// The norm.
        norm: f64,
        /// The step, from 1.
        step: u64,
    },
    /// The gradient of a table's row is no longer a number. The row has not been updated.
    #[error(
        "the gradient of a table's row is not finite in step {step}; lower the learning rate, or look for values that are \
         not finite in the data"
    )]
    RowNotFinite {
        /// The step, from 1.
        step: u64,
    },
    /// An update refused its operands.
    #[error("the update of {what} failed")]
    Kernel {
        /// What was updated.
        what: String,
        /// The operation's own reason.
        #[source]
        source: Box<streamrec_kernels::Error>,
    },
    /// Gradients are not there.
    #[error("the gradients are not ready for an update")]
    Gradients(#[from] ModelError),
}
