use crate::tensor::DType;

/// The result of a fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation was refused. Nothing has been computed when an error is returned, except where
/// a variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operand's shape does not fit the operation.
    #[error(
        "{operation}: {operand} has shape {got:?}, expected {expected:?}; pass operands of one batch and one layer"
    )]
    Shape {
        /// The operation, e.g. `linear::forward`.
        operation: &'static str,
        /// The operand's name in the operation's documentation.
        operand: &'static str,
        /// The shape the other operands call for.
        expected: Vec<usize>,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// An operand holds the wrong type of element.
    #[error("{operation}: {operand} holds {got}, expected {expected}; convert it first")]
    DType {
        /// The operation, e.g. `linear::forward`.
        operation: &'static str,
        /// The operand's name in the operation's documentation.
        operand: &'static str,
        /// The type the operation takes.
        expected: DType,
        /// The type that came.
        got: DType,
    },
    /// An id points outside its embedding table.
    #[error(
        "{operation}: feature {feature}, id {id} at position {position} is outside its table of {rows} rows; map unseen ids to reserved rows first"
    )]
    IdOutOfRange {
        /// The operation, e.g. `embedding_bag::forward`.
        operation: &'static str,
        /// The feature of the batch.
        feature: usize,
        /// Index into [`Bags::ids`](crate::embedding_bag::Bags::ids) (or into the list of row ids).
        position: usize,
        /// The id that came.
        id: i64,
        /// The rows of the table.
        rows: usize,
    },
    /// A gradient is infinite or NaN. The row is as it was; other rows may have been updated.
    #[error(
        "{operation}: the gradient of row {row} is not finite; lower the learning rate, or look for values that are not finite in the data"
    )]
    NotFinite {
        /// The operation, e.g. `sparse_optimizer::update`.
        operation: &'static str,
        /// The first such row of the table.
        row: usize,
    },
    /// `STREAMREC_VECTOR_UNIT` names no vector unit.
    #[error("STREAMREC_VECTOR_UNIT={0}: expected `avx512`, `avx2` or `baseline`")]
    VectorUnit(String),
    /// `STREAMREC_BF16_UNIT` names no unit.
    #[error("STREAMREC_BF16_UNIT={0}: expected `amx`, `avx512_bf16`, `emulated` or `float32`")]
    Bf16Unit(String),
    /// Offsets of bags, row ids or groups break the rule that `what` states.
    #[error("{operation}: {what}, but at index {index} came {got}; rebuild the batch's index")]
    Index {
        /// The operation, e.g. `embedding_bag::forward`.
        operation: &'static str,
        /// The broken rule.
        what: &'static str,
        /// Where it is broken.
        index: usize,
        /// The value found there.
        got: i64,
    },
    /// The thread pool could not be started.
    #[error("cannot start {threads} threads; lower the number of threads")]
    ThreadPool {
        /// The threads asked for.
        threads: usize,
        /// The pool's own reason.
        #[source]
        source: rayon::ThreadPoolBuildError,
    },
    /// A thread could not be pinned to a CPU.
    #[error("cannot pin threads to CPUs; start the context without pinning")]
    Pin(#[source] std::io::Error),
}
